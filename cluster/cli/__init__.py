"""The `exlpool` command."""

from cluster.cli.app import main

__all__ = ["main"]
