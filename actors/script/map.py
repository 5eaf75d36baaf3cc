"""Many prompts through a bounded window, for scripts without an event loop."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from actors.errors import ExlpoolError
from actors.request.prompt import Prompt
from actors.results import GenerationResult

Outcome = GenerationResult | ExlpoolError


def map_prompts(
    generate: Callable[[Prompt], Future[GenerationResult]],
    prompts: Iterable[Prompt],
    *,
    window: int,
    ordered: bool,
    return_errors: bool,
    progress: Callable[[int, Outcome], None] | None,
) -> Iterator[Outcome]:
    """See `Pool.map`. Leaving the iteration early cancels what is under way."""
    running: deque[Future[GenerationResult]] = deque()
    finished: queue.SimpleQueue[Future[GenerationResult]] = queue.SimpleQueue()
    source = iter(prompts)
    done = 0
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < window:
                try:
                    future = generate(next(source))
                except StopIteration:
                    exhausted = True
                    break
                running.append(future)
                if not ordered:  # else nobody takes from the queue, and it would keep every result
                    future.add_done_callback(finished.put)
            if not running:
                return
            future = running[0] if ordered else finished.get()
            running.remove(future)
            outcome = _outcome(future, return_errors=return_errors)
            done += 1
            if progress is not None:
                progress(done, outcome)
            yield outcome
    finally:
        for future in running:
            future.cancel()


def _outcome(future: Future[GenerationResult], *, return_errors: bool) -> Outcome:
    try:
        return future.result()
    except ExlpoolError as error:
        if return_errors:
            return error
        raise
