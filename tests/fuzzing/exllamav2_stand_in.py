"""Random jobs on ExLlamaV2's generator over the stand-in model, beside what brute force says they must answer."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import tests.engines.exllamav2.standin  # noqa: F401 - before anything that imports exllamav2
from actors.engines.base import Ended, EngineJob
from actors.engines.exllamav2.engine import ExLlamaV2Engine
from actors.errors import InvalidRequest
from actors.results import FinishReason
from tests.engines.exllamav2.running import Outcome, job, note
from tests.engines.exllamav2.standin import VOCAB_SIZE, make_engine
from tests.engines.resuming import resumed
from tests.fuzzing.exllamav2_reference import Answer, BruteForce, HalfRightModel, ScriptedModel

CLAIM = (
    "whatever stops, bans, drafts, cancels, resumptions and shared prompts meet in a batch of ExLlamaV2, every job "
    "answers what it would answer alone, no banned text is shown, no batch fails, and all pages are given back"
)

LETTERS = "acdg"
LENGTHS = (1, 2, 3, 4, 20, 254, 255, 256, 256, 256, 257, 258, 511, 512, 512, 513)
EOS = 2
MAX_STEPS = 3000
DRAFTS = ("no", "no", "no", "ngram", "model")


def try_case(random: Random) -> str:
    drafts = random.choice(DRAFTS)
    case = Case(random, _engine(drafts), drafts)
    case.run()
    return case.kind()


@cache
def _engine(drafts: str) -> ExLlamaV2Engine:
    directory = Path(tempfile.mkdtemp(prefix="exlpool-fuzzing-"))
    choices: dict[str, dict[str, Any]] = {
        "no": {},
        "ngram": {"ngram_draft": True},
        "model": {"draft_model": directory},
    }
    models = {"made_by": ScriptedModel, "draft_made_by": HalfRightModel}
    ScriptedModel.script = (EOS,)
    return make_engine(directory, draft=drafts == "model", exllamav2=choices[drafts], cache_tokens=6144, model=models)


@cache
def _letter_tokens() -> tuple[int, ...]:
    """Tokens of one letter and of two, and the three bytes of a character."""
    tokenizer = _engine("no")._model.generator.tokenizer
    texts = [*LETTERS, *(first + second for first in LETTERS for second in LETTERS)]
    letters = [int(tokenizer.encode(text)[0, 0]) for text in texts]
    return (*letters, *tokenizer.encode("€")[0].tolist())


class Case:
    """A few jobs on an engine without a past, submitted, cancelled, broken off and resumed between any two steps."""

    def __init__(self, random: Random, engine: ExLlamaV2Engine, drafts: str) -> None:
        self._random = random
        self._engine = engine
        self._drafts = drafts
        letters = _letter_tokens()
        ScriptedModel.script = (*random.sample(letters, random.randint(4, len(letters))), EOS)
        self._base = random.choices(letters, k=600)
        self._pieces = engine._model.pieces
        self._jobs = self._make_jobs()
        self._answers = {each.job_id: self._answer(each) for each in self._jobs}
        self._outcomes: dict[int, Outcome] = {}
        self._cancelled: set[int] = set()
        self._broken_off: set[int] = set()
        self._breaks = random.choice((0.0, 0.0, 0.02, 0.2))
        self._resumed: dict[int, int] = {}
        """Jobs that were broken off, and how many tokens of them were there already."""

    def kind(self) -> str:
        banned = any(each.params.banned_strings for each in self._jobs)
        how = "with bans" if banned else f"with {self._drafts} drafts"
        return f"{how}, resumed" if self._resumed else how

    def run(self) -> None:
        self._engine.reset()
        self._engine.page_changes()
        free_pages = self._engine.capacity().free_pages
        resident: set[bytes] = set()
        waiting = list(self._jobs)
        for _ in range(MAX_STEPS):
            while waiting and (self._random.random() < 0.3 or not self._engine.has_work()):
                each = waiting.pop(0)
                self._engine.submit(each)
                self._outcomes[each.job_id] = Outcome()
            if self._random.random() < 0.01:
                self._cancel(self._cancelled)
            if self._random.random() < self._breaks:
                self._cancel(self._broken_off)
            note(self._outcomes, self._engine.step())
            self._resume()
            changes = self._engine.page_changes()
            resident = (resident | set(changes.added)) - set(changes.evicted)
            if not waiting and not self._engine.has_work():
                break
        else:
            raise AssertionError("the engine does not come to an end")
        assert self._engine.capacity().free_pages == free_pages, "pages were not given back"
        assert resident == self._engine.resident_pages(), "page changes do not add up to the resident pages"
        for each in self._jobs:
            self._check(each)

    def _cancel(self, noted: set[int]) -> None:
        running = [job_id for job_id, outcome in self._outcomes.items() if outcome.ended is None]
        running = [job_id for job_id in running if job_id not in self._cancelled | self._broken_off]
        if running:
            job_id = self._random.choice(running)
            noted.add(job_id)
            self._engine.cancel(job_id)

    def _resume(self) -> None:
        """Go on with the jobs that were broken off, behind what was heard of them."""
        for job_id in list(self._broken_off):
            outcome = self._outcomes[job_id]
            if outcome.end.reason is FinishReason.CANCELLED:
                outcome.ended = None
                self._engine.submit(resumed(self._jobs[job_id], outcome.token_ids))
                self._resumed[job_id] = len(outcome.token_ids)
            self._broken_off.remove(job_id)

    def _check(self, each: EngineJob) -> None:
        outcome, answer = self._outcomes[each.job_id], self._answers[each.job_id]
        what = f"{each.params} behind {len(each.token_ids)} tokens: {outcome} instead of {answer}"
        for banned in each.params.banned_strings:
            assert banned.lower() not in outcome.text.lower(), f"banned text was shown: {what}"
        assert outcome.token_ids == answer.token_ids[: len(outcome.token_ids)], what
        if each.params.logprobs is not None:
            assert [entry.token_id for entry in outcome.logprobs] == outcome.token_ids, what
            assert {len(entry.top) for entry in outcome.logprobs} <= {each.params.logprobs}, what
        if outcome.end.reason is FinishReason.CANCELLED and each.job_id in self._cancelled:
            assert answer.text.startswith(outcome.text), what
            return
        if answer.may_give_up and each.job_id in self._resumed:  # what may be taken back in all begins anew
            return
        if FinishReason.ERROR in (answer.reason, outcome.end.reason):
            assert outcome.end.reason is FinishReason.ERROR, what
            assert answer.reason is FinishReason.ERROR or answer.may_give_up, what
            assert isinstance(outcome.end.error, InvalidRequest), what
            assert answer.text.startswith(outcome.text), what
            return
        assert outcome.text == answer.text, what
        self._check_end(outcome.end, answer, self._resumed.get(each.job_id, 0), what)
        if answer.stop_string is None:
            assert outcome.token_ids == answer.token_ids, what

    def _check_end(self, end: Ended, answer: Answer, resumed_tokens: int, what: str) -> None:
        made = resumed_tokens + end.completion_tokens
        assert (end.reason, made) == (answer.reason, answer.completion_tokens), what
        assert (end.stop_string, end.stop_token_id) == (answer.stop_string, answer.stop_token_id), what

    def _answer(self, each: EngineJob) -> Answer:
        return BruteForce(each, self._pieces.piece, (EOS,)).answer()

    def _make_jobs(self) -> list[EngineJob]:
        jobs: list[EngineJob] = []
        shared = self._base[: self._random.choice(LENGTHS)]
        for job_id in range(self._random.randint(1, 6)):
            prompt = shared if self._random.random() < 0.5 else self._base[: self._random.choice(LENGTHS)]
            if jobs and self._random.random() < 0.2:  # the next turn of a conversation
                before = self._random.choice(jobs)
                prompt = [*before.token_ids, *self._answer(before).token_ids][:600]
            jobs.append(self._make_job(job_id, prompt))
        return jobs

    def _make_job(self, job_id: int, prompt: list[int]) -> EngineJob:
        random = self._random
        count = random.choice((1, 2, 3, 5, 10, 20, 40))
        params: dict[str, Any] = {
            "temperature": 0.0,
            "ignore_eos": random.random() < 0.5,
            "stop": self._strings(0.3),
            "min_new_tokens": random.randint(0, count) if random.random() < 0.3 else 0,
            "stop_token_ids": random.sample(ScriptedModel.script, random.choice((0, 0, 0, 1, 2))),
            "logprobs": random.choice((None, None, None, 0, 5, 18, 20)),
        }
        if random.random() < 0.1:
            params["logit_bias"] = {random.choice(ScriptedModel.script): 3.25, random.randrange(3, VOCAB_SIZE): 40.25}
        if self._drafts == "no":
            params["banned_strings"] = self._strings(0.6)
            # Healing is the library's own matter where a token is a part of a character.
            params["token_healing"] = random.random() < 0.1 and self._pieces.piece(prompt[-1]).isalpha()
        return job(job_id, prompt, count, **params)

    def _strings(self, chance: float) -> list[str]:
        """Strings of a few letters, as often as `chance`."""
        if self._random.random() > chance:
            return []
        lengths = [self._random.choice((1, 2, 2, 2, 3, 4)) for _ in range(self._random.choice((1, 1, 2, 3)))]
        letters = LETTERS + LETTERS.upper()[:1] + "€"
        return ["".join(self._random.choices(letters, k=length)) for length in lengths]
