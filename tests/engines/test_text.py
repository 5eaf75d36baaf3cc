import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from actors.builtin_model import builtin_model_path
from actors.engines.text import CompletionText, Release, StopStrings, TokenPieces

CHARACTERS = st.sampled_from("ab é€🙂")
TEXTS = st.text(CHARACTERS, max_size=24)
STOPS = st.lists(st.text(CHARACTERS, min_size=1, max_size=4), min_size=1, max_size=3)


class BytePieces:
    """Token i is the i-th of the given bytes."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def piece(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def cut(text: str, cuts: Sequence[int]) -> list[bytes]:
    """The UTF-8 text, cut at the given byte positions, wherever they fall; equal ones make empty pieces."""
    data = text.encode()
    edges = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Character by character: the stop that is complete first, the longest of several."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return end - len(longest), longest
    return None


def run(completion: CompletionText, count: int) -> list[Release]:
    releases = []
    for token_id in range(count):
        releases.append(completion.push(token_id))
        if releases[-1].stop is not None:
            return releases
    return [*releases, completion.finish()]


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20))
def test_text_in_any_pieces_comes_out_whole_and_with_all_its_ids(text: str, cuts: list[int]) -> None:
    pieces = cut(text, cuts)
    releases = run(CompletionText(BytePieces(pieces)), len(pieces))
    assert "".join(release.text for release in releases) == text
    assert [i for release in releases for i in release.token_ids] == list(range(len(pieces)))


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20), STOPS)
def test_stop_strings_are_found_as_in_the_whole_text(text: str, cuts: list[int], stops: list[str]) -> None:
    pieces = cut(text, cuts)
    releases = run(CompletionText(BytePieces(pieces), stops=StopStrings(stops)), len(pieces))
    shown = "".join(release.text for release in releases)
    expected = first_stop(text, stops)
    if expected is None:
        assert (shown, releases[-1].stop) == (text, None)
        assert [i for release in releases for i in release.token_ids] == list(range(len(pieces)))
    else:
        assert (len(shown), releases[-1].stop) == expected
        assert text.startswith(shown)


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20), STOPS)
def test_released_text_is_always_that_of_the_released_ids(text: str, cuts: list[int], stops: list[str]) -> None:
    pieces = cut(text, cuts)
    shown = ""
    ids: list[int] = []
    for release in run(CompletionText(BytePieces(pieces), stops=StopStrings(stops)), len(pieces)):
        shown += release.text
        ids += release.token_ids
        of_ids = b"".join(pieces[i] for i in ids).decode()
        assert shown == of_ids if release.stop is None else shown.startswith(of_ids)
    assert ids == list(range(len(ids)))


@given(TEXTS, st.lists(st.integers(0, 60), max_size=20), STOPS)
def test_nothing_is_withheld_without_cause(text: str, cuts: list[int], stops: list[str]) -> None:
    pieces = cut(text, cuts)
    completion = CompletionText(BytePieces(pieces), stops=StopStrings(stops))
    shown = 0
    for token_id in range(len(pieces)):
        release = completion.push(token_id)
        if release.stop is not None:
            return
        shown += sum(len(pieces[i]) for i in release.token_ids)
        rest = b"".join(pieces[: token_id + 1])[shown:]
        if rest:
            characters = rest.decode(errors="ignore")
            incomplete = len(characters.encode()) < len(rest)
            starts_stop = any(stop.startswith(characters[place:]) for stop in stops for place in range(len(characters)))
            assert incomplete or starts_stop


@given(st.binary(max_size=12), st.lists(st.integers(0, 12), max_size=8))
def test_invalid_bytes_become_replacement_characters(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(edges)]
    releases = run(CompletionText(BytePieces(pieces)), len(pieces))
    assert "".join(release.text for release in releases) == data.decode(errors="replace")


def test_a_character_that_the_prompt_began_is_released_whole() -> None:
    pieces = BytePieces([b"x", "€".encode()[:1], "€".encode()[1:], b"y"])
    completion = CompletionText(pieces, prompt_ids=[0, 1])
    assert completion.push(2) == Release("€", (2,))
    assert completion.push(3) == Release("y", (3,))


@pytest.mark.parametrize("skipped", [1, 3])
def test_what_belongs_to_the_prompt_is_not_shown_at_the_end_either(skipped: int) -> None:
    """The prompt breaks off inside a character, and healing took what follows: an end that comes at once shows none."""
    completion = CompletionText(BytePieces([b"\xe2"]), [0], skipped=skipped)
    assert completion.finish() == Release("", ())


def test_a_possible_stop_is_withheld_until_it_is_decided() -> None:
    completion = CompletionText(
        BytePieces([b"a", b"<e", b"nd", b"x", b"<e", b"nd>", b"never"]), stops=StopStrings(["<end>"])
    )
    assert completion.push(0) == Release("a", (0,))
    assert completion.push(1) == Release("", ())
    assert completion.push(2) == Release("", ())
    assert completion.push(3) == Release("<endx", (1, 2, 3))
    assert completion.push(4) == Release("", ())
    assert completion.push(5) == Release("", (), "<end>")


def test_what_is_withheld_at_the_end_is_released() -> None:
    completion = CompletionText(BytePieces([b"a<", "€".encode()[:2]]), stops=StopStrings(["<end>"]))
    assert completion.push(0) == Release("", ())
    assert completion.push(1) == Release("", ())
    assert completion.finish() == Release("a<�", (0, 1))
    assert completion.finish() == Release("", ())


def test_a_stop_inside_a_token_keeps_the_text_before_it() -> None:
    completion = CompletionText(BytePieces([b"one", b" two|three"]), stops=StopStrings(["|"]))
    assert completion.push(0) == Release("one", (0,))
    assert completion.push(1) == Release(" two", (), "|")


def test_stops_do_not_count_while_they_may_not() -> None:
    completion = CompletionText(BytePieces([b"a|", b"|b", b"c|"]), stops=StopStrings(["|"]))
    assert completion.push(0, may_stop=False) == Release("a|", (0,))
    assert completion.push(1, may_stop=False) == Release("|b", (1,))
    assert completion.push(2) == Release("c", (), "|")


@pytest.fixture(scope="module")
def builtin() -> Tokenizer:
    return Tokenizer.from_file(str(builtin_model_path() / "tokenizer.json"))


@given(ids=st.lists(st.integers(0, 2060), max_size=40))
def test_byte_level_text_is_what_the_tokenizer_decodes(builtin: Tokenizer, ids: list[int]) -> None:
    completion = CompletionText(TokenPieces(builtin))
    text = "".join(completion.push(token_id).text for token_id in ids) + completion.finish().text
    assert text == builtin.decode(ids)


def test_special_tokens_have_no_text(builtin: Tokenizer) -> None:
    special = [i for i, token in builtin.get_added_tokens_decoder().items() if token.special]
    assert special
    pieces = TokenPieces(builtin)
    assert {pieces.piece(i) for i in special} == {b""}


def sentencepiece_like() -> Tokenizer:
    """As in Llama 2: a mark for the space, bytes as a last resort, and a first space that decoding strips."""
    words = ["<unk>", "▁the", "▁dog", "s", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def test_byte_fallback_keeps_spaces_and_joins_bytes() -> None:
    tokenizer = sentencepiece_like()
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[word] for word in ["▁the", "▁dog", "s", "<0xE2>", "<0x82>", "<0xAC>", "▁dog"]]
    completion = CompletionText(TokenPieces(tokenizer), prompt_ids=ids)
    assert [completion.push(i).text for i in ids] == [" the", " dog", "s", "", "", "€", " dog"]


def test_other_decoders_are_asked_what_a_token_adds() -> None:
    vocabulary = {"the": 0, "dog": 1, "##s": 2, "[UNK]": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    pieces = TokenPieces(tokenizer)
    assert [pieces.piece(i) for i in (0, 1, 2, 99)] == [b" the", b" dog", b"s", b""]


def test_all_byte_level_pieces_are_known(builtin: Tokenizer) -> None:
    assert json.loads(builtin.decoder.__getstate__())["type"] == "ByteLevel"
    pieces = TokenPieces(builtin)
    single = {pieces.piece(i) for i in range(builtin.get_vocab_size())}
    assert {bytes([byte]) for byte in range(256)} <= single
