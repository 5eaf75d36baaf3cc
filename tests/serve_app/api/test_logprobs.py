"""Log probabilities in OpenAI's shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from actors.builtin_model import builtin_model_path
from actors.engines.text import TokenPieces
from actors.results import TokenLogprobs
from serve_app.api.logprobs import FLOOR, CompletionLogprobsWriter, chat_logprobs
from serve_app.models.token_names import TokenNames

EOS = 2


@cache
def builtin() -> tuple[TokenNames, Tokenizer]:
    tokenizer = Tokenizer.from_file(str(builtin_model_path() / "tokenizer.json"))
    return TokenNames(tokenizer, TokenPieces(tokenizer)), tokenizer


@pytest.fixture
def names() -> TokenNames:
    return builtin()[0]


def of(ids: Sequence[int]) -> list[TokenLogprobs]:
    return [TokenLogprobs(token_id, -0.5) for token_id in ids]


def test_a_chat_entry_has_bytes_and_alternatives(names: TokenNames) -> None:
    value = TokenLogprobs(300, -0.25, ((300, -0.25), (EOS, -math.inf)))
    (entry,) = chat_logprobs(names, [value])
    text = names.shown(300)[0]
    assert (entry["token"], entry["logprob"], bytes(entry["bytes"]).decode()) == (text, -0.25, text)
    assert entry["top_logprobs"][0] == {"token": text, "logprob": -0.25, "bytes": entry["bytes"]}
    assert entry["top_logprobs"][1] == {"token": "<|eos|>", "logprob": FLOOR, "bytes": None}
    json.dumps(entry, allow_nan=False)


@given(text=st.text(min_size=1, max_size=40), cuts=st.lists(st.integers(1, 5), max_size=10))
def test_offsets_go_on_however_the_tokens_are_cut(text: str, cuts: list[int]) -> None:
    names, tokenizer = builtin()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = CompletionLogprobsWriter(names, 3).write(of(ids))
    writer, pieces, begin = CompletionLogprobsWriter(names, 3), [], 0
    for cut in [*cuts, len(ids)]:
        pieces.append(writer.write(of(ids[begin : begin + cut])))
        begin += cut
    assert [offset for piece in pieces for offset in piece["text_offset"]] == whole["text_offset"]
    assert whole["text_offset"][0] == 3
    assert all(0 <= offset - 3 <= len(text) for offset in whole["text_offset"])
    assert whole["text_offset"] == sorted(whole["text_offset"])


def test_the_sampled_token_is_always_among_the_likely_ones(names: TokenNames) -> None:
    value = TokenLogprobs(400, -7.0, ((300, -0.1), (301, -2.0)))
    (top,) = CompletionLogprobsWriter(names).write([value])["top_logprobs"]
    assert top == {names.shown(300)[0]: -0.1, names.shown(301)[0]: -2.0, names.shown(400)[0]: -7.0}


def test_without_alternatives_there_is_the_sampled_token(names: TokenNames) -> None:
    written = CompletionLogprobsWriter(names).write(of([300]))
    assert written["top_logprobs"] == [{names.shown(300)[0]: -0.5}]
    assert written["token_logprobs"] == [-0.5]
