"""Watch the workers of a pool, as a program that runs on any machine of its cluster:

    python -m tests.multinode.watching NAME

Whenever something is new, a line of JSON goes out: by slot name the address of the worker's machine, the worker's state
in one word, and the tokens that it has generated. It ends with standard input.
"""

from __future__ import annotations

import json
import sys
import threading

from actors import ExlpoolError, Pool, PoolStatistics

INTERVAL_S = 0.1


def seen(statistics: PoolStatistics) -> str:
    return json.dumps(
        {state.slot_name: (state.node, state.state, state.generated_tokens) for state in statistics.workers}
    )


def until_input_ends(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def main() -> None:
    over = threading.Event()
    threading.Thread(target=until_input_ends, args=(over,), daemon=True).start()
    last = ""
    with Pool.connect(sys.argv[1], address="auto") as pool:
        while not over.wait(INTERVAL_S):
            try:
                now = seen(pool.statistics())
            except ExlpoolError:
                continue  # its dispatcher is started again
            if now != last:
                print(now, flush=True)
            last = now


if __name__ == "__main__":
    main()
