"""Step outputs while they are collected: columns that grow on the worker until they leave as one message."""

from __future__ import annotations

from actors.messages import Finished, StepOutput
from actors.results import TokenLogprobs


class OutputColumns:
    """A `StepOutput` in the making. Columns of several steps join when the reader is slower than the engine."""

    __slots__ = ("_finished", "_has_logprobs", "_logprobs", "_texts", "_tickets", "_token_ids")

    def __init__(self) -> None:
        self._tickets: list[int] = []
        self._texts: list[str] = []
        self._token_ids: list[tuple[int, ...]] = []
        self._logprobs: list[tuple[TokenLogprobs, ...]] = []
        self._has_logprobs = False
        self._finished: list[tuple[int, Finished]] = []

    def __bool__(self) -> bool:
        return bool(self._tickets or self._finished)

    def add(self, ticket: int, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...] = ()) -> None:
        self._tickets.append(ticket)
        self._texts.append(text)
        self._token_ids.append(token_ids)
        self._logprobs.append(logprobs)
        self._has_logprobs = self._has_logprobs or bool(logprobs)

    def finish(self, ticket: int, finished: Finished) -> None:
        self._finished.append((ticket, finished))

    def extend(self, later: OutputColumns) -> None:
        """Append the columns of a later step; order within a ticket is kept."""
        self._tickets += later._tickets
        self._texts += later._texts
        self._token_ids += later._token_ids
        self._logprobs += later._logprobs
        self._has_logprobs = self._has_logprobs or later._has_logprobs
        self._finished += later._finished

    def message(self) -> StepOutput:
        return StepOutput(
            tickets=tuple(self._tickets),
            texts=tuple(self._texts),
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs) if self._has_logprobs else (),
            finished=tuple(self._finished),
        )
