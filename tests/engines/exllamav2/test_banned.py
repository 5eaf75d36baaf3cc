"""Which tokens banned strings take back, and which they let go."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.engines.exllamav2 import banned as banned_module
from actors.engines.exllamav2.banned import MAX_CHAINED, BannedStrings
from tests.engines.exllamav2.running import greedy, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine


class Texts:
    """Token n is the n-th text."""

    def __init__(self, *texts: str | bytes) -> None:
        self._texts = [text if isinstance(text, bytes) else text.encode() for text in texts]

    def piece(self, token_id: int) -> bytes:
        return self._texts[token_id]


class Sampled:
    """Ids as a job keeps them."""

    def __init__(self, banned: BannedStrings) -> None:
        self.banned = banned
        self.ids: list[int] = []

    def push(self, *token_ids: int, may_stop: bool = True) -> list[int]:
        for token_id in token_ids:
            self.ids.append(token_id)
            watched = self.banned.undecided + 1
            count = self.banned.push(token_id, self.ids[-watched:], may_stop=may_stop)
            del self.ids[len(self.ids) - count :]
        return self.ids


def test_a_token_is_undecided_while_one_behind_it_can_be_taken_back() -> None:
    banned = BannedStrings(["cd"], Texts("gc", "xc", "dq", "dg", "e"))
    sampled = Sampled(banned)
    assert sampled.push(0, 1) == [0, 1]
    assert banned.undecided == 2
    assert sampled.push(2) == [0]  # "gcxc" + "dq": another token must come behind "gc" ...
    assert banned.blocked == {1}
    assert sampled.push(3) == []  # ... and "dg" may not be it
    assert banned.blocked == {0}
    assert sampled.push(4, 0, 4) == [4, 0, 4]
    assert banned.undecided == 0


def test_what_nothing_can_bring_back_is_let_go_at_once() -> None:
    banned = BannedStrings(["xyz", "cd"], Texts("ab", "bx", "c", "e"))
    sampled = Sampled(banned)
    for token_ids, undecided in (([0], 0), ([1], 1), ([2], 2), ([3], 0)):
        sampled.push(*token_ids)
        assert banned.undecided == undecided


@pytest.mark.parametrize("before", [1, 10, 300])
def test_a_long_chain_is_cut_and_banned_text_still_never_appears(before: int) -> None:
    banned = BannedStrings(["ab"], Texts("a", "b", "bb", "c"))
    sampled = Sampled(banned)
    for _ in range(before):
        sampled.push(0)
        assert banned.undecided <= MAX_CHAINED
    for token_id in (1, 2, 1, 2, 1):
        text = "".join("abbc"[at] for at in sampled.push(token_id))
        assert "ab" not in text
    assert sampled.push(3)[-1] == 3


def test_a_character_that_the_prompt_began_is_looked_at_whole() -> None:
    euro = "€".encode()
    banned = BannedStrings(["€"], Texts(euro[:2], euro[2:], "x"), prompt_ids=[0])
    assert Sampled(banned).push(1) == []


def test_what_is_not_shown_is_not_banned() -> None:
    banned = BannedStrings(["cd"], Texts("cd", "de", "c"), skipped=1)
    assert Sampled(banned).push(0, 1) == [0, 1]


def test_what_is_not_shown_is_still_not_banned_after_a_take_back() -> None:
    banned = BannedStrings(["x", "cd"], Texts("cx", "cd"), skipped=1)
    sampled = Sampled(banned)
    assert sampled.push(0) == []
    assert sampled.push(1) == [1]


def test_a_blocked_token_says_that_there_was_no_other() -> None:
    banned = BannedStrings(["a"], Texts("xa", "b"))
    sampled = Sampled(banned)
    assert sampled.push(1, 0) == [1]
    assert banned.dead_end is None
    assert sampled.push(0) == [1]
    assert banned.dead_end is not None


def test_what_may_be_taken_back_in_all_grows_with_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banned_module, "MAX_TAKEN_BACK", 4)
    monkeypatch.setattr(banned_module, "MAX_TAKEN_BACK_PER_SETTLED", 1)
    banned = BannedStrings(["cd"], Texts("e", "d", "ac", "bc", "gc", "xc"))
    sampled = Sampled(banned)
    sampled.push(0, 2, 1, 3, 1)
    assert banned.dead_end is None, "four tokens went, and five may"
    sampled.push(4, 1)
    assert banned.dead_end is not None
    assert sampled.ids == [0]


@pytest.mark.parametrize(("may_stop", "kept"), [(True, [0]), (False, [])])
def test_a_stop_string_that_is_complete_first_ends_the_text_before_the_banned_one(
    may_stop: bool, kept: Sequence[int]
) -> None:
    banned = BannedStrings(["cd"], Texts("c", "d", "cd"), stops=["c"])
    sampled = Sampled(banned)
    sampled.push(0, may_stop=may_stop)
    assert banned.undecided == (0 if may_stop else 1)
    if not may_stop:
        assert sampled.push(1) == kept


def test_letters_that_change_their_case_by_their_neighbours_are_the_same_letter() -> None:
    for written in ("ΟΔΟΣ", "οδος", "οδοσ"):
        assert Sampled(BannedStrings(["οδος"], Texts(written[:3], written[3:]))).push(0, 1) == []
    assert Sampled(BannedStrings(["i\u0307x"], Texts("İ", "x"))).push(0, 1) == [0, 1]


# In the engine


@pytest.mark.parametrize("length", [256, 512])
def test_two_equal_prompts_that_fill_a_page_share_none_that_is_written_again(tmp_path: Path, length: int) -> None:
    engine = make_engine(tmp_path)
    ids = next(ids for seed in range(99) if _spelled(ids := prompt(length, seed), 2).isascii())
    banned = _spelled(ids, 2)
    outcomes = run(engine, [greedy(n, ids, 10, banned_strings=[banned]) for n in range(2)])
    assert outcomes[0].token_ids == outcomes[1].token_ids
    assert banned.lower() not in outcomes[0].text.lower()
    follow_up = [*ids, *outcomes[0].token_ids]
    assert run(engine, [greedy(9, follow_up, 5)])[9].token_ids == reference(follow_up, 5)


def _spelled(ids: Sequence[int], count: int) -> str:
    from tests.engines.exllamav2.standin.tokenizer import tokenizer

    names = [tokenizer().id_to_token(token_id) or "" for token_id in reference(ids, count)]
    return "".join(names) if all(name.isalpha() for name in names) else "\ufffd"


def test_dry_counts_no_tokens_that_were_taken_back(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    letters = [engine._model.generator.tokenizer.single_id(letter) for letter in "ab"]
    wanted = {"logit_bias": dict.fromkeys(letters, 60.0), "banned_strings": ["abab", "bbbb"], "dry_multiplier": 0.01}
    engine.submit(greedy(0, prompt(5), 40, **wanted))
    lengths = [0]
    while engine.has_work():
        for pool_job in engine._model.generator.active_jobs:
            lengths.append(len(pool_job.sequences[0].sequence_ids))
            assert pool_job.gen_settings.ngram_index <= lengths[-1]
        engine.step()
    assert min(after - before for before, after in itertools.pairwise(lengths)) < -1, "nothing was taken back"
