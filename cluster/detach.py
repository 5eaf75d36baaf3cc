"""Start a program that outlives whoever asked for it: `python detach.py LOG COMMAND...` prints its process id.

It is no descendant of the caller, since this process, its parent, ends at once.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    log, *command = sys.argv[1:]
    with open(log, "ab") as output:
        started = subprocess.Popen(
            command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    print(started.pid)


if __name__ == "__main__":
    main()
