"""`make fuzz`: search all properties and state machines at random, in rounds of new seeds, until the time is up.

FUZZ_SECONDS is how long (600), FUZZ_EXAMPLES how many examples a property has in one round (1000), FUZZ_SEED the one
seed of a search that is to be repeated. Tests that need a cluster or a GPU are left out. Exits with 1 when something
was found.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (
    *(sys.executable, "-m", "pytest", "-v", "--no-header", "-c", "pyproject.toml", "-p", "no:cacheprovider"),
    *("-p", "tests.properties", "--hypothesis-profile=fuzz", "-m", "hypothesis and not ray and not gpu"),
    "--timeout=0",
)
FOUND, NO_TESTS = 1, 5
KILL_AFTER_S = 10.0
ADVICE = """
Something was found. Keep it, so that `make test` fails until it is mended and looks at it for ever after:
  a property: put the arguments of the falsifying example over the test, as @example(...) beside its @given(...);
  a state machine: write the steps shown above as a plain test beside it, as tests/paging/test_random_jobs.py does.
To search in the same way again: make fuzz FUZZ_SEED={seed}
"""


def run_round(paths: Sequence[str], seed: int, seconds: float) -> tuple[int | None, str]:
    """One run of pytest: its exit code, None where the time was up before it came to its end, and what it wrote."""
    with tempfile.TemporaryFile("w+") as output:
        command = [*PYTEST, f"--hypothesis-seed={seed}", *paths]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop(process)
        output.seek(0)
        return code, output.read()


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(paths: Sequence[str]) -> int:
    given = os.environ.get("FUZZ_SEED")
    end_s = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600"))
    while (left_s := end_s - time.monotonic()) > 0:
        seed = random.SystemRandom().getrandbits(32) if given is None else int(given)
        print(f"Searching with seed {seed}, for {left_s:.0f} s at most", flush=True)
        code, output = run_round(paths, seed, left_s)
        failed = code == FOUND or (code is None and " FAILED" in output)
        if failed:
            print(output, ADVICE.format(seed=seed), flush=True)
            return FOUND
        if code is None:
            print(f"The time is up; the last line was: {output.rstrip().splitlines()[-1] if output.strip() else ''}")
        elif code == 0:
            print(f"Nothing found: {output.rstrip().splitlines()[-1].strip('= ')}", flush=True)
        else:
            print(output, "No property was searched." if code == NO_TESTS else f"pytest ended with {code}.", flush=True)
            return code
        if given is not None:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
