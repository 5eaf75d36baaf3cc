"""ExLlamaV2 0.3.2 does all of the following wrong, or badly, if it is left alone. One test for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exllamav2.generator import ExLlamaV2Sampler

from actors.engines import grammar
from actors.engines.exllamav2.grammar_filter import GrammarFilter
from actors.engines.exllamav2.job import PoolJob
from actors.engines.exllamav2.settings import MAX_CANDIDATES, sampler_settings
from actors.engines.exllamav2.weights import choose_attention
from actors.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from actors.request.grammar.kinds import MAX_GRAMMAR_CHARACTERS
from actors.results import FinishReason
from actors.sampling import SamplingParams, sampling_params
from tests.bombs import ENDLESS_BEHIND_SIX, ENDLESS_LARK
from tests.engines.exllamav2.running import greedy, job, note, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine


class _LibraryConfig:
    no_flash_attn = False
    no_sdpa = False


def test_without_flash_attention_the_non_causal_path_is_off_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from exllamav2 import attn

    monkeypatch.setattr(attn, "has_flash_attn_with_paged", False)
    config = _LibraryConfig()
    assert choose_attention(config) is False
    assert config.no_sdpa
    assert "ONE job at a time" in caplog.text


def test_with_flash_attention_generation_is_paged() -> None:
    config = _LibraryConfig()
    assert choose_attention(config) is True
    assert not config.no_sdpa


@pytest.mark.parametrize("call", [3, 5, 9])
def test_after_a_failed_step_and_a_reset_the_engine_is_right_again(tmp_path: Path, call: int) -> None:
    engine = make_engine(tmp_path)
    model = engine._model.generator.model
    model.calls.clear()
    model.fail_at = call
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(engine, [greedy(n, prompt(250 + n, n), 30) for n in range(3)])
    engine.reset()
    assert not engine.has_work()
    assert engine.resident_pages() == frozenset()
    assert engine.capacity().free_pages == engine.capacity().total_pages
    outcomes = run(engine, [greedy(n, prompt(250 + n, n), 30) for n in range(3)])
    for n in range(3):
        assert outcomes[n].token_ids == reference(prompt(250 + n, n), 30)


def test_a_job_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, context_tokens=512)
    with pytest.raises(ContextLengthExceeded, match="512"):
        engine.submit(greedy(0, prompt(500), 13))
    run(engine, [greedy(1, prompt(500), 12)])


def test_a_job_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=1024)
    with pytest.raises(ContextLengthExceeded):
        engine.submit(greedy(0, prompt(1000), 100))
    assert not engine.has_work()


BAD_JOBS: list[tuple[str, dict[str, Any]]] = [
    ("an empty prompt", {"token_ids": []}),
    ("nothing to generate", {"token_ids": [5], "max_new_tokens": 0}),
    ("a negative number of tokens", {"token_ids": [5], "max_new_tokens": -600}),
    ("a DRY range that the library asserts against", {"token_ids": [5], "dry_multiplier": 1.0, "dry_range": 10}),
    ("a schema that is too long", {"token_ids": [5], "json_schema": " " * (MAX_GRAMMAR_CHARACTERS + 1)}),
]


@pytest.mark.parametrize(("what", "bad"), BAD_JOBS, ids=[what for what, _ in BAD_JOBS])
def test_what_would_poison_a_batch_is_refused_before_it_is_submitted(
    tmp_path: Path, what: str, bad: dict[str, Any]
) -> None:
    engine = make_engine(tmp_path)
    outcomes = run(engine, [greedy(0, prompt(20), 20)], steps=3)
    with pytest.raises(InvalidRequest):
        engine.submit(job(1, **{"max_new_tokens": 20, **bad}))
    while engine.has_work():
        for event in engine.step():
            assert event.job_id == 0
    assert outcomes[0].started == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("start: nowhere", "nowhere"),
        (ENDLESS_LARK, "to compile"),
        (ENDLESS_BEHIND_SIX.replace("{6}", "{2}"), "what may come next"),
    ],
)
def test_a_bad_grammar_ends_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    monkeypatch.setattr(grammar, "COMPILE_CPU_S", 0.25)
    engine = make_engine(tmp_path)
    outcomes = run(engine, [greedy(0, prompt(20), 20), job(1, prompt(20, 1), 20, lark=source)])
    assert outcomes[0].token_ids == reference(prompt(20), 20)
    assert outcomes[1].end.reason is FinishReason.ERROR
    assert isinstance(outcomes[1].end.error, InvalidRequest)
    assert reason in outcomes[1].end.error.message


def test_a_job_that_waits_for_its_grammar_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "COMPILE_CPU_S", 3600.0)
    engine = make_engine(tmp_path)
    outcomes = run(engine, [greedy(0, prompt(20), 20), job(1, prompt(20, 1), 20, lark=ENDLESS_LARK)], steps=40)
    assert outcomes[0].token_ids == reference(prompt(20), 20)
    assert engine.capacity().pending_jobs == 1
    engine.cancel(1)
    note(outcomes, engine.step())
    assert outcomes[1].end.reason is FinishReason.CANCELLED
    assert not engine.has_work()


def test_nothing_waits_for_the_next_mask_of_a_job_that_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "STEP_TIMEOUT_S", 0.01)  # what would be waited for in vain, and then be a failure
    loaded = make_engine(tmp_path)._model
    waiting = GrammarFilter(loaded.limits.vocab_size, frozenset(loaded.limits.eos_token_ids))
    waiting.use(loaded.grammars.mask("regex", "a+"))
    waiting.feed(torch.tensor([[loaded.generator.tokenizer.single_id("a")]]))
    waiting.close()
    waiting.prepare_logit_mask()
    assert waiting.failure is None


def test_a_fault_in_one_jobs_sampler_ends_that_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(tmp_path)
    sample = PoolJob._sample

    def faulty(self: PoolJob, logits: torch.Tensor, draw: float) -> Any:
        if self.job_id == 1 and self.new_tokens == 5:
            raise RuntimeError("injected")
        return sample(self, logits, draw)

    monkeypatch.setattr(PoolJob, "_sample", faulty)
    outcomes = run(engine, [greedy(0, prompt(20), 20), job(1, prompt(20, 1), 20, ignore_eos=True)])
    assert outcomes[0].token_ids == reference(prompt(20), 20)
    assert outcomes[1].end.reason is FinishReason.ERROR
    assert "injected" in str(outcomes[1].end.error)
    assert len(outcomes[1].token_ids) == 5
    assert engine.capacity().free_pages == engine.capacity().total_pages


@pytest.mark.parametrize("how", ["ngram", "model"])
@pytest.mark.parametrize(("length", "count"), [(50, 20), (253, 1), (254, 2), (255, 1), (256, 1), (255, 2), (400, 150)])
def test_drafting_ends_neither_early_nor_with_an_error_at_a_page_edge(
    tmp_path: Path, how: str, length: int, count: int
) -> None:
    options = {"ngram_draft": True} if how == "ngram" else {"draft_model": tmp_path}
    engine = make_engine(tmp_path, draft=how == "model", exllamav2=options)
    outcome = run(engine, [greedy(0, prompt(length), count)])[0]
    assert outcome.token_ids == reference(prompt(length), count)
    assert outcome.end.completion_tokens == count
    assert engine._model.limits.reserve_tokens == 4


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_a_prompt_shorter_than_an_ngram_harms_nobody(tmp_path: Path, tokens: int) -> None:
    engine = make_engine(tmp_path, exllamav2={"ngram_draft": True})
    prompts = [prompt(40), prompt(tokens, 1), prompt(tokens, 2)]
    outcomes = run(engine, [greedy(number, ids, 20) for number, ids in enumerate(prompts)])
    for number, ids in enumerate(prompts):
        assert outcomes[number].token_ids == reference(ids, 20)


@pytest.mark.parametrize("how", ["ngram", "model"])
def test_drafting_bears_every_job_that_is_let_in(tmp_path: Path, how: str) -> None:
    options = {"ngram_draft": True} if how == "ngram" else {"draft_model": tmp_path}
    engine = make_engine(tmp_path, draft=how == "model", exllamav2=options, cache_tokens=8192, context_tokens=512)
    room = 512 - engine._model.limits.reserve_tokens
    prompts: dict[int, tuple[list[int], int]] = {
        0: ([1], 1),
        1: ([0, 1], 20),
        2: ([2, 2, 2], 20),
        3: (prompt(room - 1), 1),
        4: (prompt(room - 20, 1), 20),
        5: (prompt(1, 2), room - 1),
    }
    jobs = [greedy(n, ids, count) for n, (ids, count) in prompts.items()]
    biased = greedy(6, [1], 9, logit_bias={77: 100.0}, stop_token_ids=[78], min_new_tokens=4)
    document = greedy(7, [1], 9, regex="[ab]{9}", min_new_tokens=4)
    stopped = greedy(8, [1], 9, logit_bias={260: 100.0}, stop=[engine._model.pieces.piece(260).decode() * 3])
    outcomes = run(engine, [*jobs, biased, document, stopped])
    for n, (ids, count) in prompts.items():
        assert outcomes[n].token_ids == reference(ids, count)
    assert outcomes[6].token_ids == [77] * 9
    assert (len(outcomes[7].text), outcomes[7].end.reason) == (9, FinishReason.STOP)
    assert (outcomes[8].text, outcomes[8].end.completion_tokens) == ("", 3)
    assert engine.capacity().free_pages == engine.capacity().total_pages


def test_what_cannot_be_drafted_is_refused_by_name(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, exllamav2={"ngram_draft": True})
    with pytest.raises(UnsupportedParameter, match="banned_strings"):
        engine.submit(greedy(0, prompt(5), 5, banned_strings=["x"]))


def test_a_batch_of_drafted_jobs_equals_the_model(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, draft=True, exllamav2={"draft_model": tmp_path}, cache_tokens=8192)
    outcomes = run(engine, [greedy(n, prompt(200 + 30 * n, n), 60) for n in range(6)])
    for n in range(6):
        assert outcomes[n].token_ids == reference(prompt(200 + 30 * n, n), 60)


def test_the_adapter_is_passed_to_every_forward_and_never_an_empty_list(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    generator = engine._model.generator
    run(engine, [greedy(0, prompt(300), 3)])
    assert set(map(str, generator.model.loras)) == {"None"}


def test_banned_strings_give_ids_that_spell_the_text(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    settings = {"temperature": 1.0, "ignore_eos": True}
    free = run(engine, [job(0, prompt(20), 30, seed=3, **settings)])[0]
    pieces = engine._model.pieces
    banned = [pieces.piece(token_id).decode(errors="ignore") for token_id in free.token_ids[5:9]]
    banned = [text for text in banned if text.strip()] or [free.text[5:7]]
    outcome = run(engine, [job(1, prompt(20), 30, seed=3, banned_strings=banned, **settings)])[1]
    spelled = b"".join(pieces.piece(token_id) for token_id in outcome.token_ids).decode(errors="replace")
    assert outcome.text == spelled
    assert outcome.end.completion_tokens == 30
    for text in banned:
        assert text.lower() not in outcome.text.lower()
    assert outcome.token_ids != free.token_ids


def test_samplers_that_sort_the_vocabulary_look_at_a_bounded_number_of_candidates() -> None:
    assert sampler_settings(sampling_params(top_p=0.9)).top_k == MAX_CANDIDATES
    assert sampler_settings(sampling_params(tfs=0.9)).top_k == MAX_CANDIDATES
    assert sampler_settings(sampling_params(typical_p=0.9)).top_k == MAX_CANDIDATES
    assert sampler_settings(sampling_params(top_p=0.9, top_k=7)).top_k == 7
    assert sampler_settings(sampling_params()).top_k == 0


def test_the_engine_never_uses_the_librarys_asyncio_wrapper(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    assert "Async" not in type(engine._model.generator).__mro__[1].__name__


def test_settings_are_neutral_unless_asked() -> None:
    settings = sampler_settings(SamplingParams())
    neutral = {"token_repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    for name, value in neutral.items():
        assert getattr(settings, name) == value
    library = ExLlamaV2Sampler.Settings()
    assert (library.temperature, library.top_k, library.top_p) != (1.0, 0, 1.0)


def test_every_job_has_settings_of_its_own(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    params = sampling_params(mirostat=True, ignore_eos=True)
    first, second = sampler_settings(params), sampler_settings(params)
    assert first is not second
    wanted = {"mirostat": True, "ignore_eos": True}
    alone = run(engine, [job(0, prompt(20), 30, seed=1, **wanted)])[0]
    after = run(engine, [job(1, prompt(9, 4), 30, seed=2, **wanted), job(2, prompt(20), 30, seed=1, **wanted)])[2]
    assert after.token_ids == alone.token_ids


def test_text_that_looks_like_a_special_token_stays_text(tmp_path: Path) -> None:
    tokenizer = make_engine(tmp_path)._model.generator.tokenizer
    assert 1 not in tokenizer.encode("<s>ab", encode_special_tokens=False)[0].tolist()
    assert tokenizer.encode("<s>ab", encode_special_tokens=True)[0].tolist()[0] == 1


def test_empty_strings_never_reach_the_matcher(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="banned_strings"):
        sampling_params(banned_strings=[""])
    with pytest.raises(InvalidRequest, match="stop"):
        sampling_params(stop=[""])
