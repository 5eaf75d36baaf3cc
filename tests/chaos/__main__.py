"""`python -m tests.chaos`: run the chaos, print its report, and exit with 1 when anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import sys
from dataclasses import replace

from tests.chaos.nodes import node_dies
from tests.chaos.plan import chaos_plan, short_plan
from tests.chaos.report import is_right, lines
from tests.chaos.run import chaos

NODE_WATCHDOG_S = 400.0


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("CHAOS_MINUTES", "5")))
    parser.add_argument("--requests", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="every kind of fault once or twice")
    parser.add_argument("--faults", default=None, help="only these kinds, by commas")
    parser.add_argument("--node", action="store_true", help="only the death of a node")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    wrong = False if options.node else break_processes(options)
    return int(wrong if options.short else break_node() or wrong)


def break_processes(options: argparse.Namespace) -> bool:
    """Returns whether anything is wrong."""
    plan = short_plan(options.seed) if options.short else chaos_plan(options.minutes, options.seed)
    if options.requests is not None:
        plan = replace(plan, requests=options.requests)
    if options.faults is not None:
        plan = replace(plan, faults=tuple(options.faults.split(",")))
    # Whatever hangs here is shown with all its threads, and ended; Ray's processes end with this one.
    faulthandler.dump_traceback_later(plan.watchdog_s, exit=True)
    with contextlib.redirect_stdout(sys.stderr):  # Ray says there of every process that is killed
        outcome = asyncio.run(chaos(plan))
    print("\n".join(lines(plan, outcome)), flush=True)
    faulthandler.cancel_dump_traceback_later()
    return not is_right(outcome)


def break_node() -> bool:
    """Returns whether anything is wrong."""
    faulthandler.dump_traceback_later(NODE_WATCHDOG_S, exit=True)
    with contextlib.redirect_stdout(sys.stderr):
        seen = asyncio.run(node_dies())
    print("\n".join(seen.lines()), flush=True)
    faulthandler.cancel_dump_traceback_later()
    return bool(seen.failures)


if __name__ == "__main__":
    sys.exit(main())
