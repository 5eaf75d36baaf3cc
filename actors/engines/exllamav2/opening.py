"""What a job's sampled tokens follow on: its prompt, healed or not, and what there is of its completion already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.engines.base import EngineJob
from actors.engines.text import Pieces, primed_decoder


@dataclass(frozen=True, slots=True)
class Opening:
    """`prompt_ids` are those of the prompt that stay. Token healing takes the last one away: the completion's first
    token takes its place and begins with its text, `healed` characters, which are not shown.

    `completion_ids` are the completion's beginning, where it is resumed.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    healed: int

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.prompt_ids + self.completion_ids

    @property
    def to_heal(self) -> int:
        """Characters of the prompt that are still to be sampled."""
        return 0 if self.completion_ids else self.healed


def opening_of(job: EngineJob, pieces: Pieces) -> Opening:
    prompt_ids = job.token_ids[: job.prompt_tokens]
    healed = healed_characters(pieces, prompt_ids) if job.params.token_healing else 0
    return Opening(prompt_ids[:-1] if healed else prompt_ids, job.completion_ids, healed)


def healed_characters(pieces: Pieces, token_ids: Sequence[int]) -> int:
    """How much text of the prompt token healing samples again: that of its last token, 0 where it stays.

    It stays where it is the whole prompt, or no text of its own: a special token, a part of a character.
    """
    piece = pieces.piece(token_ids[-1]) if len(token_ids) > 1 else b""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return 0
    # Where the prompt broke off inside a character before it, the sign for that is decoded with this token.
    return len(primed_decoder(pieces, token_ids[:-1]).decode(piece)) if piece else 0
