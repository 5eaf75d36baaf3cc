"""Many prompts through a bounded window."""

import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from threading import Lock
from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.results import FinishReason, GenerationResult, Timing, Usage
from actors.script.map import map_prompts


def result(text: str) -> GenerationResult:
    return GenerationResult(
        request_id=text,
        text=text,
        token_ids=(),
        finish_reason=FinishReason.STOP,
        usage=Usage(1, 1),
        timing=Timing(queue_s=0, prefill_s=0, first_token_s=0, total_s=0),
        worker_id="w#1",
    )


class Pool:
    """Completes prompts on threads, and notes how many were under way at most."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(8)
        self.running = self.peak = self.calls = 0
        self.lock = Lock()

    def generate(self, prompt: Any) -> Future[GenerationResult]:
        with self.lock:
            self.calls += 1
            self.running += 1
            self.peak = max(self.peak, self.running)
        return self.executor.submit(self._work, prompt)

    def _work(self, prompt: Any) -> GenerationResult:
        with self.lock:
            self.running -= 1
        if prompt == "bad":
            raise InvalidRequest("bad prompt")
        return result(prompt)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.executor.shutdown()


def run(pool: Pool, prompts: Any, **changes: Any) -> Any:
    options: dict[str, Any] = {"window": 3, "ordered": True, "return_errors": False, "progress": None}
    return map_prompts(pool.generate, prompts, **{**options, **changes})


def test_results_come_in_order(pool: Pool) -> None:
    prompts = [str(number) for number in range(50)]
    assert [outcome.text for outcome in run(pool, prompts)] == prompts
    assert pool.peak <= 3


def test_results_come_as_they_are_finished(pool: Pool) -> None:
    prompts = [str(number) for number in range(50)]
    assert sorted(outcome.text for outcome in run(pool, prompts, ordered=False)) == sorted(prompts)


def test_an_endless_source_is_read_no_further_than_the_window(pool: Pool) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "again"

    outcomes = run(pool, endless())
    assert [next(outcomes).text for _ in range(4)] == ["again"] * 4
    outcomes.close()
    assert pool.calls <= 4 + 3


def test_an_error_ends_the_run(pool: Pool) -> None:
    outcomes = run(pool, ["a", "bad", "c"])
    assert next(outcomes).text == "a"
    with pytest.raises(InvalidRequest):
        next(outcomes)


def test_errors_take_the_place_of_results_when_asked(pool: Pool) -> None:
    outcomes = list(run(pool, ["a", "bad", "c"], return_errors=True))
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "GenerationResult",
        "InvalidRequest",
        "GenerationResult",
    ]


def test_progress_counts_what_is_finished(pool: Pool) -> None:
    seen: list[int] = []
    list(run(pool, ["a", "b"], progress=lambda done, _: seen.append(done)))
    assert seen == [1, 2]


def test_nothing_in_nothing_out(pool: Pool) -> None:
    assert list(run(pool, [])) == []


class Held:
    """A pool whose completions never come, to see what is cancelled."""

    def __init__(self) -> None:
        self.futures: list[Future[GenerationResult]] = []

    def generate(self, prompt: Any) -> Future[GenerationResult]:
        self.futures.append(Future())
        return self.futures[-1]


def test_a_source_that_fails_cancels_what_is_under_way() -> None:
    def source() -> Iterator[str]:
        yield from ("a", "b")
        raise RuntimeError("the file is gone")

    held = Held()
    outcomes = map_prompts(held.generate, source(), window=3, ordered=True, return_errors=True, progress=None)
    with pytest.raises(RuntimeError, match="the file is gone"):
        next(outcomes)
    assert [future.cancelled() for future in held.futures] == [True, True]


def test_leaving_early_cancels_what_is_under_way() -> None:
    held = Held()
    outcomes = map_prompts(held.generate, "abcdef", window=3, ordered=False, return_errors=False, progress=None)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(next, outcomes)
        while len(held.futures) < 3:
            assert not waiting.done()
        held.futures[1].set_result(result("b"))
        assert waiting.result(10).text == "b"  # type: ignore[union-attr]
    outcomes.close()  # type: ignore[attr-defined]
    assert [future.cancelled() for future in held.futures] == [True, False, True]


def test_a_progress_callback_that_fails_cancels_what_is_under_way() -> None:
    held = Held()

    def fail(*_: object) -> None:
        raise RuntimeError("no terminal")

    outcomes = map_prompts(held.generate, "abc", window=3, ordered=False, return_errors=False, progress=fail)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(next, outcomes)
        while len(held.futures) < 3:
            assert not waiting.done()
        held.futures[0].set_result(result("a"))
        with pytest.raises(RuntimeError, match="no terminal"):
            waiting.result(10)
    assert [future.cancelled() for future in held.futures] == [False, True, True]


class Noted(GenerationResult):
    """A result that can be referred to weakly."""


@pytest.mark.parametrize("ordered", [True, False])
def test_results_that_were_taken_are_not_kept(pool: Pool, ordered: bool) -> None:
    alive: weakref.WeakSet[Noted] = weakref.WeakSet()
    window, most = 4, 0

    def make(prompt: Any) -> GenerationResult:
        plain = result(prompt)
        made = Noted(**{field.name: getattr(plain, field.name) for field in fields(plain)})
        alive.add(made)
        return made

    prompts = (str(number) for number in range(500))
    options: dict[str, Any] = {"window": window, "ordered": ordered, "return_errors": False, "progress": None}
    for _ in map_prompts(lambda prompt: pool.executor.submit(make, prompt), prompts, **options):
        most = max(most, len(alive))
    assert most <= 2 * window + 8  # those under way, those that wait to be taken, and those that threads still hold
