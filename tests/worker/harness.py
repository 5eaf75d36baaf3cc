"""A running engine thread for tests, and what it told."""

from __future__ import annotations

import queue
from typing import Any

from actors.engines.simulated import SimulatedEngine
from actors.messages import Finished, GenerationRequest, LoadProgress, WorkerLimits
from actors.sampling import sampling_params
from actors.worker.commands import Command, StepNews, Submit
from actors.worker.engine_thread import EngineThread

WAIT_S = 20.0
PROMPT = tuple(range(10, 40))


def request(ticket: int, prompt: tuple[int, ...] = PROMPT, tokens: int = 10, **params: Any) -> GenerationRequest:
    return GenerationRequest(
        ticket=ticket,
        request_id=f"request-{ticket}",
        attempt=1,
        token_ids=prompt,
        max_new_tokens=tokens,
        seed=0,
        params=sampling_params(**{"temperature": 0.0, **params}),
    )


class Harness:
    """A running thread, and what it told, by front and ticket."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self.progress: list[LoadProgress] = []
        self.limits: WorkerLimits | None = None
        self.news: list[StepNews] = []
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.finished: dict[tuple[str, int], Finished] = {}
        self._arrived: queue.SimpleQueue[StepNews] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.thread = EngineThread(
            lambda: engine,
            on_progress=self.progress.append,
            on_loaded=self._loaded,
            on_news=self._arrived.put,
            on_end=self._ends.put,
        )
        self.thread.start()

    def _loaded(self, limits: WorkerLimits) -> None:
        self.limits = limits

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.thread.send(command)

    def submit(self, *requests: GenerationRequest, front: str = "front") -> None:
        self.send(*(Submit(front, one) for one in requests))

    def next(self) -> StepNews:
        """The news of one step, taken in."""
        news = self._arrived.get(timeout=WAIT_S)
        self.news.append(news)
        for front, columns in news.outputs.items():
            output = columns.message()
            for ticket, token_ids in zip(output.tickets, output.token_ids, strict=True):
                assert (front, ticket) not in self.finished, "output after the end"
                self.tokens.setdefault((front, ticket), []).extend(token_ids)
            for ticket, finished in output.finished:
                self.finished[front, ticket] = finished
        return news

    def until_finished(self, *tickets: int, front: str = "front") -> list[Finished]:
        while any((front, ticket) not in self.finished for ticket in tickets):
            self.next()
        return [self.finished[front, ticket] for ticket in tickets]

    def end(self) -> BaseException | None:
        failure = self._ends.get(timeout=WAIT_S)
        assert self.thread.join(WAIT_S)
        return failure
