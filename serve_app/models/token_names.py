"""How the tokens of a model are shown to people."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer

from actors.engines.text import TokenPieces


class TokenNames:
    """How the tokens of one model are shown: their text, and its bytes."""

    def __init__(self, tokenizer: Tokenizer, pieces: TokenPieces) -> None:
        self._tokenizer = tokenizer
        self.pieces = pieces
        self.shown = lru_cache(maxsize=65536)(self._shown)

    def _shown(self, token_id: int) -> tuple[str, tuple[int, ...] | None]:
        """A token without text, as special ones are, goes by its name and has no bytes."""
        piece = self.pieces.piece(token_id)
        if piece:
            return piece.decode(errors="replace"), tuple(piece)
        return self._tokenizer.id_to_token(token_id) or "", None
