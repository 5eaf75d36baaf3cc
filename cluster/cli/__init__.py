"""The `exlpool` command."""

from cluster.cli.entrance import main

__all__ = ["main"]
