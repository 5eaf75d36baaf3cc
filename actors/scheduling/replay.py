"""Print what a scheduler was told and what it did: `python -m actors.scheduling.replay FILE`.

FILE is a log as `recording.py` describes it. After every event the scheduler's invariants are checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.scheduling.recording import encode_event, replay


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m actors.scheduling.replay", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a log of a scheduler's events")
    file: Path = parser.parse_args(arguments).file
    try:
        with file.open(encoding="utf-8") as lines:
            for now_s, event, actions in replay(lines, validate=True):
                print(encode_event(now_s, event))
                for action in actions:
                    print(f"    {action}")
    except OSError as error:
        sys.exit(f"Cannot read {file}: {error.strerror}.")
    except (ValueError, AssertionError) as error:
        sys.exit(f"{file}: {error}")


if __name__ == "__main__":
    main()
