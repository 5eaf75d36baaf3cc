"""`python -m tests.soak`: run a soak, print its report, and exit with 1 when anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import sys
import threading

from tests.soak.plan import soak_plan
from tests.soak.report import lines
from tests.soak.run import soak


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "30")))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plan = soak_plan(options.minutes, options.seed)
    # Whatever hangs here is shown with all its threads, and ended; Ray's processes end with this one.
    faulthandler.dump_traceback_later(plan.watchdog_s, exit=True)
    logging.basicConfig(level=logging.ERROR)
    print(f"Soak of {options.minutes:g} minutes, seed {options.seed}", file=sys.stderr, flush=True)
    with contextlib.redirect_stdout(sys.stderr):  # Ray says there of every process that is killed
        checker, watch = asyncio.run(soak(plan))
    print("\n".join(lines(plan, checker, watch)), flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 1 if checker.failure_count else 0


if __name__ == "__main__":
    status = main()
    stuck = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if stuck and status:
        os._exit(status)  # a thread that waits for ever would keep this process too
    sys.exit(status)
