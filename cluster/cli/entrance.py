"""The first lines of the program. Nothing heavy is imported before signals are caught: Ray alone takes seconds."""

from __future__ import annotations

from cluster.cli.interrupts import Interrupts


def main() -> None:
    """Run the command line of this process, and end the process with its exit status."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        from cluster.cli.app import main as run_command

        run_command()
    finally:
        interrupts.settle()
