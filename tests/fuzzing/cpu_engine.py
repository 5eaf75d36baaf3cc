"""The CPU engine beside plain transformers: jobs that join, leave and share in any order, on many kinds of models."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from actors.config import EngineConfig
from actors.engines.base import EngineJob
from actors.engines.cpu import CpuEngine
from actors.engines.cpu.cache import SPACING_TOKENS
from actors.errors import ModelError
from tests.engines.cpu.harness import Runner, filler, job, load_reference, run
from tests.engines.cpu.random_models import write_random_model
from tests.fuzzing.cpu_models import CACHE_PAGES, KINDS, VOCABULARY, Model, model, odd_settings
from tests.fuzzing.cpu_reference import check_generated, check_job

CLAIM = "each job's text is what transformers makes of it alone, nothing outgrows its room, and all is given back"

LOADS_IN_CASES = 20
BORDERS = (1, 2, 255, 256, 257, 511, 512, 513)
MAX_STEPS = 2000


def try_case(random: Random) -> str:
    if random.randrange(LOADS_IN_CASES) == 0:
        return try_load(random)
    name = random.choice(list(KINDS))
    one = model(name)
    jobs = make_jobs(random)
    runner = run_jobs(random, one, jobs)
    check_given_back(one)
    for each in jobs:
        if each.job_id in runner.outcomes and each.params.temperature == 0.0:
            check_job(one.reference, each, runner.outcomes[each.job_id])
    return name


def make_jobs(random: Random) -> list[EngineJob]:
    if random.random() < 0.1:
        return many_of_one_beginning(random)
    beginnings = [prompt_ids(random.choice((100, 255, 256, 300, 512)), seed) for seed in range(2)]
    return [
        job(i, make_prompt(random, beginnings, i), random.choice((1, 2, 5, 12, 30)), seed=i, **make_params(random))
        for i in range(random.randint(1, 6))
    ]


def many_of_one_beginning(random: Random) -> list[EngineJob]:
    """Whose pages are few, and whose rows are more than there is room for."""
    beginning = prompt_ids(512, 0)
    return [job(i, (*beginning, *prompt_ids(1 + i, 30 + i)), 8, **make_params(random)) for i in range(8)]


def make_prompt(random: Random, beginnings: list[tuple[int, ...]], number: int) -> tuple[int, ...]:
    """Alone or behind a beginning that others have too, often as long as pages are."""
    if random.random() < 0.5:
        return prompt_ids(random.choice((*BORDERS, random.randint(1, 600))), 10 + number)
    shared = random.choice(beginnings)
    shared = shared[: random.choice((len(shared), random.randint(1, len(shared))))]
    return (*shared, *prompt_ids(random.choice((0, 1, 2, 20, 200)), 20 + number)) if random.random() < 0.8 else shared


def prompt_ids(tokens: int, seed: int) -> tuple[int, ...]:
    return tuple(3 + token_id % (VOCABULARY - 3) for token_id in filler(tokens, seed))


def make_params(random: Random) -> dict[str, Any]:
    params: dict[str, Any] = {"ignore_eos": random.random() < 0.5}
    optional: list[tuple[str, Any]] = [
        ("repetition_penalty", random.choice((0.5, 1.1, 1.7, 10.0))),
        ("presence_penalty", random.choice((-1.5, 0.7, 2.0))),
        ("frequency_penalty", random.choice((-0.5, 0.3, 2.0))),
        ("repetition_range", random.choice((0, 1, 2, 7, 256, -1))),
        ("logit_bias", {random.randrange(VOCABULARY): random.choice((-100.0, -3.0, 2.0, 5.0, 100.0)) for _ in "abc"}),
        ("min_new_tokens", random.randint(0, 1)),
        ("stop_token_ids", tuple(random.randrange(VOCABULARY) for _ in range(random.choice((1, 4))))),
        ("temperature", 1.0),
    ]
    params |= {name: value for name, value in optional if random.random() < 0.25}
    if random.random() < 0.2:  # ends that are likely to come, and must not come yet
        params |= {"stop_token_ids": tuple(random.sample(range(VOCABULARY), 16)), "ignore_eos": False}
    return params


def run_jobs(random: Random, one: Model, jobs: list[EngineJob]) -> Runner:
    """Submit them between any two steps, and cancel some of them at any time."""
    one.engine.reset()
    runner, waiting, kept = Runner(one.engine), list(jobs), random.random() < 0.6
    for _ in range(MAX_STEPS):
        if not waiting and not one.engine.has_work():
            return runner
        while waiting and random.random() < 0.5:
            runner.submit(waiting.pop(0))
        if not kept and runner.outcomes and random.random() < 0.1:
            one.engine.cancel(random.choice(list(runner.outcomes)))
        runner.step()
        check_room(one)
    raise AssertionError("the jobs never ended")


def check_room(one: Model) -> None:
    batch = one.engine._batch
    assert batch is not None
    taken = sum(len(block.rows) * (block.capacity + SPACING_TOKENS) for block in batch._rows._blocks.values())
    assert taken <= one.room_tokens, f"rows take {taken} tokens, and {one.room_tokens} were counted"


def check_given_back(one: Model) -> None:
    capacity, batch = one.engine.capacity(), one.engine._batch
    assert batch is not None
    assert (capacity.free_pages, capacity.active_jobs, capacity.pending_jobs) == (CACHE_PAGES, 0, 0)
    assert all(not block.rows and not block.decoding for block in batch._rows._blocks.values())
    assert batch._rows._room_tokens == one.room_tokens
    one.engine._table.validate([])


def try_load(random: Random) -> str:
    """A model whose attention is limited somehow is served right, or refused; where a shorter context is told to help,
    it helps."""
    name, settings = odd_settings(random)
    with tempfile.TemporaryDirectory(prefix="exlpool-fuzz-") as directory:
        path, kind = Path(directory), "served"
        write_random_model(path, name, settings, seed=random.randrange(1000))
        engine, advice = load(path)
        if engine is None and advice is not None:
            kind = "served in part"
            engine, _ = load(path, advice)
            assert engine is not None, f"{name} was refused with a context of {advice} tokens, which was told to help"
        if engine is None:
            return f"{name} refused"
        check_served(random, engine, path)
    return f"{name} {kind}"


def load(path: Path, context_tokens: int | None = None) -> tuple[CpuEngine | None, int | None]:
    """The engine; or, where it refuses the model, the context with which it would not."""
    settings: dict[str, Any] = {"engine": "cpu", "model": path, "cache_tokens": 1024, "chunk_tokens": 256}
    engine = CpuEngine(EngineConfig(context_tokens=context_tokens, **settings))
    try:
        engine.load(lambda _: None)
    except ModelError as error:
        advice = re.search(r"Set context_tokens to (\d+)", error.message)
        return None, None if advice is None else int(advice[1])
    return engine, None


def check_served(random: Random, engine: CpuEngine, path: Path) -> None:
    assert engine._loaded is not None
    room = min(engine._loaded.limits.context_tokens, 1024)
    prompt = prompt_ids(min(random.choice((5, 30, 70, 280, 520)), max(room - 9, 1)), 5)
    length = min(8, room - len(prompt))
    if length:
        outcome = run(engine, job(1, prompt, length, ignore_eos=True))[1]
        check_generated(load_reference(path, attn_implementation="eager"), prompt, outcome.token_ids)
    engine.close()
