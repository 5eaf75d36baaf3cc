import json
import re
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from actors.builtin_model import builtin_model_path
from actors.engines.grammar import (
    GrammarMask,
    Grammars,
    token_mask,
    words_needed,
)
from actors.errors import InvalidRequest
from actors.request.grammar.kinds import MAX_GRAMMAR_CHARACTERS, GrammarKind
from tests.properties import examples

EOS = 2
VOCAB_SIZE = 2048 + 37  # a model's logits are often wider than its tokenizer
PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
TOKENIZER_JSON = (builtin_model_path() / "tokenizer.json").read_text(encoding="utf-8")
TOKENIZER = Tokenizer.from_str(TOKENIZER_JSON)
VOCABULARY = TOKENIZER.get_vocab()


@pytest.fixture(scope="module")
def compiler() -> Grammars:
    return Grammars(TOKENIZER_JSON, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS])


def allowed(mask: GrammarMask) -> list[int]:
    words = np.zeros(words_needed(VOCAB_SIZE), np.int32)
    mask.allowed(words)
    return np.flatnonzero(token_mask(words, VOCAB_SIZE)).tolist()


def random_text(mask: GrammarMask, random: Random) -> str:
    ids: list[int] = []
    while not mask.complete and len(ids) < 200:
        token_id = random.choice(allowed(mask))
        if token_id == EOS:
            break
        mask.accept(token_id)
        ids.append(token_id)
    return TOKENIZER.decode(ids)


@examples(25)
@given(seed=st.integers(0, 2**32))
def test_random_choices_under_a_schema_are_valid_compact_json(compiler: Grammars, seed: int) -> None:
    text = random_text(compiler.mask("json_schema", PERSON), Random(seed))
    value = json.loads(text)
    assert list(value) == ["name", "age"]
    assert len(value["name"]) <= 8
    assert value["age"] in range(10)
    assert text.startswith('{"name": "')
    assert '", "age": ' in text


@examples(25)
@given(seed=st.integers(0, 2**32))
def test_random_choices_under_a_regex_match_it(compiler: Grammars, seed: int) -> None:
    text = random_text(compiler.mask("regex", r"(yes|no), [a-c]{1,4}\."), Random(seed))
    assert re.fullmatch(r"(yes|no), [a-c]{1,4}\.", text)


def test_lark_grammars_work(compiler: Grammars) -> None:
    text = random_text(compiler.mask("lark", 'start: "a" "b"* "!"'), Random(1))
    assert re.fullmatch("ab*!", text)


def test_a_complete_grammar_allows_only_the_end(compiler: Grammars) -> None:
    mask = compiler.mask("regex", "a")
    assert not mask.complete
    mask.accept(VOCABULARY["a"])
    assert mask.complete
    assert allowed(mask) == [EOS]


def test_states_of_one_grammar_are_independent(compiler: Grammars) -> None:
    first = compiler.mask("regex", "abab")
    before = allowed(first)
    first.accept(VOCABULARY["a"])
    second = compiler.mask("regex", "abab")
    assert allowed(second) == before
    second.accept(VOCABULARY["a"])
    second.accept(VOCABULARY["b"])
    assert allowed(first) != allowed(second)
    first.accept(VOCABULARY["b"])
    assert allowed(first) == allowed(second)


@examples(25)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_a_resumed_text_allows_what_it_allowed_before(compiler: Grammars, seed: int, share: float) -> None:
    random, mask = Random(seed), compiler.mask("json_schema", PERSON)
    ids: list[int] = []
    while not mask.complete:
        ids.append(random.choice(allowed(mask)))
        mask.accept(ids[-1])
    count = int(share * len(ids))
    whole, resumed = compiler.mask("json_schema", PERSON), compiler.mask("json_schema", PERSON, ids[:count])
    for token_id in ids[:count]:
        whole.accept(token_id)
    for token_id in ids[count:]:
        assert allowed(resumed) == allowed(whole)
        resumed.accept(token_id)
        whole.accept(token_id)
        assert resumed.complete == whole.complete
    assert resumed.complete


def test_a_long_text_is_resumed_at_once(compiler: Grammars) -> None:
    digits = [VOCABULARY[digit] for digit in "0123456789"] * 10_000
    mask = compiler.mask("regex", "[0-9]*x", digits)
    assert VOCABULARY["x"] in allowed(mask)
    assert VOCABULARY["a"] not in allowed(mask)


@pytest.mark.parametrize("text", ["x1", "1x1", "1xx"])
def test_a_beginning_against_the_grammar_is_an_error(compiler: Grammars, text: str) -> None:
    with pytest.raises(InvalidRequest):
        compiler.mask("regex", "[0-9]x", [VOCABULARY[character] for character in text])
    assert compiler.mask("regex", "[0-9]x")  # the grammar itself is in order


def test_a_token_against_the_grammar_is_an_error(compiler: Grammars) -> None:
    mask = compiler.mask("regex", "ab")
    with pytest.raises(InvalidRequest):
        mask.accept(VOCABULARY["b"])


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("regex", "(ab", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("lark", "start: nowhere", "nowhere"),
        ("lark", 'start: "a', "lexer error"),
        ("json_schema", "{", "not JSON"),
        ("json_schema", "[]", "JSON object"),
        ("json_schema", '{"type": "objct"}', "objct"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"$ref": "#/nowhere"}', "nowhere"),
        ("json_schema", '{"items": ' * 5000 + "{}" + "}" * 5000, "recursion"),
        ("json_schema", '{"const": "\\ud800"}', "not JSON serializable"),
        ("lark", 'start: "\ud800"', "half a surrogate pair"),
        ("regex", "\ud800", "half a surrogate pair"),
        ("regex", "a" * (MAX_GRAMMAR_CHARACTERS + 1), "longer"),
    ],
)
def test_a_bad_grammar_is_refused_with_the_reason(
    compiler: Grammars, kind: GrammarKind, source: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{kind} cannot be used: .*{reason}") as caught:
        compiler.mask(kind, source)
    assert caught.value.param == kind
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def test_whitespace_stays_compact_whatever_the_schema_says(compiler: Grammars) -> None:
    schema = json.dumps(json.loads(PERSON) | {"x-guidance": {"whitespace_flexible": True}})
    mask = compiler.mask("json_schema", schema)
    mask.accept(VOCABULARY["{"])
    texts = {TOKENIZER.decode([token_id]) for token_id in allowed(mask)}
    assert texts == {'"'} or all(text.startswith('"') for text in texts)


def test_the_cache_is_bounded_and_keeps_the_last_used() -> None:
    grammars = Grammars(TOKENIZER_JSON, vocab_size=VOCAB_SIZE, max_cached=2)
    used = [grammars.want("regex", source)._process for source in ("a", "b", "a", "c", "a", "b")]
    assert used[0] is used[2] is used[4]
    assert used[1] is not used[5]
    assert len(grammars._processes) == 2
    grammars.close()


@pytest.mark.parametrize(("vocab_size", "ends"), [(2048, [2, 5000]), (2080, [2, 2070]), (2080, [2070]), (1900, [2])])
def test_a_tokenizer_and_logits_of_different_sizes_go_together(vocab_size: int, ends: list[int]) -> None:
    grammars = Grammars(TOKENIZER_JSON, vocab_size=vocab_size, eos_token_ids=ends)
    mask = grammars.mask("regex", "[0-9][a-c]")
    text = Tokenizer.from_str(TOKENIZER_JSON)
    seen: list[set[str]] = []
    for token in ("0", "a"):
        words = np.zeros(words_needed(vocab_size), dtype=np.int32)
        mask.allowed(words)
        seen.append({str(text.id_to_token(int(place))) for place in np.flatnonzero(token_mask(words, vocab_size))})
        mask.accept(text.get_vocab()[token])
    grammars.close()
    assert seen[0] >= set("0123456789")
    assert seen[1] >= set("abc")
    assert all(piece[0] in "0123456789" for piece in seen[0])
    assert all(piece[0] in "abc" for piece in seen[1])
