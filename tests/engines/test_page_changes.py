"""What every engine tells of its pages, step by step, adds up to what is resident, whatever happens to its jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.config import EngineConfig
from actors.engines.base import Engine
from actors.engines.cpu import CpuEngine
from actors.engines.simulated import SimulatedEngine
from actors.paging.hashes import PAGE_TOKENS
from tests.engines.cpu.harness import filler, job
from tests.engines.exllamav2.standin import make_engine
from tests.properties import examples

PAGES = 8
SLOTS = 3


def _cpu(_: Path) -> Engine:
    engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=PAGES * PAGE_TOKENS, max_batch_size=SLOTS))
    engine.load(lambda _: None)
    return engine


def _simulated(_: Path) -> Engine:
    options: dict[str, Any] = {"step_s": 0.0, "vocab_size": 512}
    config = EngineConfig(engine="simulated", cache_tokens=PAGES * PAGE_TOKENS, max_batch_size=SLOTS, simulated=options)
    engine = SimulatedEngine(config)
    engine.load(lambda _: None)
    return engine


def _exllamav2(directory: Path) -> Engine:
    return make_engine(directory, cache_tokens=PAGES * PAGE_TOKENS, max_batch_size=SLOTS)


def _drafting(directory: Path) -> Engine:
    return make_engine(
        directory, cache_tokens=PAGES * PAGE_TOKENS, max_batch_size=SLOTS, exllamav2={"ngram_draft": True}
    )


MAKERS = [_simulated, _cpu, _exllamav2, _drafting]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__.strip("_"))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    maker: Callable[[Path], Engine] = request.param
    made = maker(tmp_path_factory.mktemp("model"))
    yield made
    made.close()


PROMPTS = [tuple(3 + token % 500 for token in filler(700, seed)) for seed in (0, 1)]
"""Two texts; prompts are beginnings of them, so that some have pages in common."""

ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from([0, 1]), st.sampled_from([1, 250, 257, 505, 700])),
    st.tuples(st.just("step"), st.integers(1, 12), st.just(0)),
    st.tuples(st.just("finish"), st.just(0), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("look"), st.just(0), st.just(0)),
    st.tuples(st.just("reset"), st.just(0), st.just(0)),
)


class Follower:
    """Knows an engine's pages only by what it is told."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pages = set(engine.resident_pages())
        engine.page_changes()

    def look(self) -> None:
        changes = self.engine.page_changes()
        assert len(set(changes.added)) == len(changes.added)
        assert not self.pages & set(changes.added), "a page was added that was there already"
        assert self.pages >= set(changes.evicted), "a page was evicted that was not there"
        self.pages = (self.pages | set(changes.added)) - set(changes.evicted)
        assert self.pages == self.engine.resident_pages()
        assert not self.engine.page_changes(), "nothing happened in between"


@settings(examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=5, max_size=15), tokens=st.sampled_from([2, 20, 80]))
def test_changes_add_up_to_what_is_resident(engine: Engine, actions: list[tuple[str, int, int]], tokens: int) -> None:
    engine.reset()
    follower = Follower(engine)
    submitted = 0
    for kind, number, length in actions:
        match kind:
            case "submit":
                engine.submit(job(submitted, PROMPTS[number][:length], tokens, ignore_eos=True))
                submitted += 1
            case "step" | "finish":
                for _ in range(number if kind == "step" else 1000):
                    if engine.has_work():
                        engine.step()
            case "cancel":
                engine.cancel(number)
            case "look":
                follower.look()
            case "reset":
                engine.reset()
    follower.look()
    engine.reset()
    follower.look()
    assert follower.pages == set()


def test_a_run_tells_pages_when_they_fill_and_when_they_are_taken(engine: Engine) -> None:
    engine.reset()
    engine.page_changes()
    engine.submit(job(1, PROMPTS[0][:520], 300, ignore_eos=True))
    added: list[int] = []
    while engine.has_work():
        engine.step()
        changes = engine.page_changes()
        assert changes.evicted == ()
        added += [len(changes.added)] if changes else []
    assert sum(added) == 3, "two of the prompt, one of the completion, at 768 tokens"
    assert added[-1] == 1
    engine.submit(job(2, PROMPTS[1][:700], 7 * PAGE_TOKENS - 700, ignore_eos=True))
    engine.step()
    assert type(engine).__name__ in repr(engine), "an engine shows its state"
    assert re.search(r"[1-9] jobs", repr(engine))
    assert engine.page_changes().evicted
    engine.reset()
