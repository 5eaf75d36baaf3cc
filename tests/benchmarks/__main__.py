"""Runs the benchmarks that need no GPU and no trace, one after another: `make bench`."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("bench_dispatch", "bench_streaming", "bench_serve", "bench_engine", "bench_scaling")


def main() -> int:
    for name in BENCHMARKS:
        print(f"\n== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
