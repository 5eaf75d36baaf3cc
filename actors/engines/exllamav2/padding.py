"""How many rows a decode step should have.

Up to 32 rows the library multiplies quantised matrices with a kernel whose time grows with the rows; above, it
unpacks each matrix once and leaves the rest to cuBLAS (exllamav2_ext/config.h, MAX_Q_GEMM_ROWS, 0.3.2). Where the
second way is faster for fewer rows already, which depends on the GPU and the model, a step is filled up with copies of
its first row: on an H100, 32 rows of an 8B model take twice as long as 33.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PADDED_ROWS = 33
_TRIED = (8, 12, 16, 20, 24, 28, 32)
_GAIN = 1.05
_REPEAT = 3


def find_pad_from(
    run: Callable[[int], None], most_rows: int, clock: Callable[[], float] = time.perf_counter
) -> int | None:
    """The least number of rows from which a step is faster when it is filled up to `PADDED_ROWS`; None: none up to
    `most_rows`. `run` runs a step of so many rows and waits for its end."""

    def seconds(rows: int) -> float:
        run(rows)  # warms up
        spent = []
        for _ in range(_REPEAT):
            start_s = clock()
            run(rows)
            spent.append(clock() - start_s)
        return min(spent)

    tried = [rows for rows in _TRIED if rows <= most_rows]
    if not tried:
        return None
    padded_s = seconds(PADDED_ROWS)
    return next((rows for rows in tried if seconds(rows) > padded_s * _GAIN), None)


def rows_of_step(rows: int, pad_from: int | None) -> int:
    return PADDED_ROWS if pad_from is not None and pad_from <= rows < PADDED_ROWS else rows
