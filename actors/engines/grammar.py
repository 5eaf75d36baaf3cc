"""Constrained output for any engine: which tokens of its vocabulary may come next under a grammar, from llguidance.

What a grammar is, and which are refused, is written in `actors.request.grammar`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from actors.request.grammar import LIMITS, GrammarKind, UnusableGrammar, llguidance_grammar, refusal

Words = NDArray[np.int32]


class GrammarMask:
    """The state of one constrained completion.

    The mask has one bit per token id, the lowest bit of the first word for id 0, in `words_needed(vocab_size)` words.
    """

    def __init__(self, matcher: LLMatcher, kind: GrammarKind, known_words: int) -> None:
        """`known_words` are the words of a mask over all tokens that the tokenizer knows."""
        self._matcher = matcher
        self._kind = kind
        self._known_words = known_words

    def allowed(self, words: Words) -> None:
        """Write which tokens may come next into `words` (contiguous).

        :raises InvalidRequest: the grammar turned out too complex for this text.
        """
        # A tokenizer may know more tokens than the model has logits.
        found = words if len(words) >= self._known_words else np.zeros(self._known_words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(found.ctypes.data, found.nbytes)
        self._check()
        if found is not words:
            words[:] = found[: len(words)]

    def accept(self, token_id: int) -> None:
        """Go on by one token.

        :raises InvalidRequest: the grammar does not allow it here.
        """
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def complete(self) -> bool:
        """Nothing but an end-of-sequence token can follow."""
        return bool(self._matcher.is_stopped())

    def fork(self) -> GrammarMask:
        """An independent copy of this state."""
        return GrammarMask(self._matcher.deep_copy(), self._kind, self._known_words)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise refusal(self._matcher.get_error(), param=self._kind)


class GrammarCompiler:
    """Compiles grammars for one tokenizer, each once as long as it is among the last `max_cached` used.

    `vocab_size` is that of the model's logits, if larger than the tokenizer's; `eos_token_ids` end a completion, by
    default the tokenizer's own. May be used from several threads.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        vocab_size: int | None = None,
        eos_token_ids: Sequence[int] = (),
        max_cached: int = 64,
    ) -> None:
        self._source = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids) or None
        self._max_cached = max_cached
        self._compiled: OrderedDict[tuple[GrammarKind, str], GrammarMask] = OrderedDict()
        self._tokenizer: Any = None
        self._lock = Lock()

    def check(self, kind: GrammarKind, source: str) -> None:
        """:raises InvalidRequest: the grammar cannot be used; the message says why."""
        self.mask(kind, source)

    def mask(self, kind: GrammarKind, source: str) -> GrammarMask:
        """A fresh state of the grammar.

        :raises InvalidRequest: the grammar cannot be used; the message says why.
        """
        with self._lock:
            compiled = self._compiled.get((kind, source))
            if compiled is None:
                compiled = self._compiled[kind, source] = self._compile(kind, source)
                if len(self._compiled) > self._max_cached:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end((kind, source))
            return compiled.fork()

    def _compile(self, kind: GrammarKind, source: str) -> GrammarMask:
        try:
            grammar = llguidance_grammar(kind, source)
        except UnusableGrammar as error:
            raise refusal(str(error), param=kind) from None
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._source, self._vocab_size, self._eos_token_ids)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise refusal(matcher.get_error(), param=kind)
        return GrammarMask(matcher, kind, words_needed(self._tokenizer.vocab_size))


def _tokenizer(source: str, vocab_size: int | None, eos_token_ids: list[int] | None) -> Any:
    """The library refuses ends that its tokenizer does not know, and fewer logits than the tokenizer has tokens."""
    try:
        return LLTokenizer(source, n_vocab=vocab_size, eos_token=eos_token_ids)
    except ValueError:
        known = int(LLTokenizer(source).vocab_size)
        ends = [token_id for token_id in eos_token_ids or () if token_id < known] or None
        return LLTokenizer(source, n_vocab=max(known, vocab_size or 0), eos_token=ends)


def words_needed(vocab_size: int) -> int:
    """32-bit words of a mask over `vocab_size` token ids."""
    return -(-vocab_size // 32)


def token_mask(words: Words, vocab_size: int) -> NDArray[np.bool_]:
    """A mask in words as one bool per token id."""
    return np.unpackbits(words.view(np.uint8), bitorder="little", count=vocab_size).view(np.bool_)
