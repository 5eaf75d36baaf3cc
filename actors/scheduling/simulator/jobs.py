"""A request of a simulation, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.paging.hashes import PAGE_TOKENS
from actors.paging.table import Allocation
from actors.results import Priority


@dataclass(slots=True, eq=False)
class Job:
    """A request with the output that it is going to have, which no dispatcher knows.

    `pages` names the prompt's shareable pages, `(prompt_tokens - 1) // 256` of them. `all_pages` goes on with those of
    the completion; they become resident when it ends, so that the next turn of a chat finds them. It is empty where a
    trace does not tell.
    """

    job_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    max_new_tokens: int
    pages: tuple[bytes, ...] = ()
    all_pages: tuple[bytes, ...] = ()
    tenant: str = ""
    priority: Priority = Priority.DEFAULT

    # What became of it.
    attempt: int = 1
    worker: int | None = None
    emitted_tokens: int = 0
    computed_tokens: int = 0
    first_token_s: float | None = None
    done_s: float | None = None
    refused: str | None = None
    killers: set[str] = field(default_factory=set)

    # While it is on a worker.
    prefill_left: int = 0
    skips: int = 0
    generated: int = 0
    allocation: Allocation | None = None

    @property
    def total_prompt_tokens(self) -> int:
        """Prompt of the current attempt: a replay carries what was emitted before."""
        return self.prompt_tokens + self.emitted_tokens

    @property
    def left_tokens(self) -> int:
        return self.output_tokens - self.emitted_tokens

    @property
    def ttft_s(self) -> float:
        assert self.first_token_s is not None
        return self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        """(E2E - TTFT) / (tokens - 1); 0 for a single token."""
        assert self.done_s is not None
        assert self.first_token_s is not None
        return (self.done_s - self.first_token_s) / max(self.output_tokens - 1, 1)

    @property
    def e2e_s(self) -> float:
        assert self.done_s is not None
        return self.done_s - self.arrival_s


def page_name(*parts: int) -> bytes:
    """A name that stands for a page's hash: equal parts, equal prefix."""
    return b"".join(part.to_bytes(8, "little", signed=True) for part in parts)


def shareable(pages: Sequence[bytes], prompt_tokens: int) -> tuple[bytes, ...]:
    """The pages of a prompt that a later request can share: the last token is always computed anew."""
    return tuple(pages[: (prompt_tokens - 1) // PAGE_TOKENS])
