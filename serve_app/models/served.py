"""The models that an application serves: each name stands for a pool, with a front of this process to it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from actors.errors import ExlpoolError, NoHealthyWorker
from actors.front.front import Front
from actors.messages import WorkerLimits
from actors.request.checks import room_tokens
from actors.results import Priority
from serve_app.errors import ModelNotFound
from serve_app.models.readiness import Readiness
from serve_app.models.text import ModelText

logger = logging.getLogger(__name__)

OPENING_RETRY_S = 2.0
"""What a client is told to wait while a model is still being loaded."""


class ServedModel:
    """A pool under a name. `start` it on the event loop that will use it, `close` it there before the loop ends.

    Until the pool has a worker, and again when it has none, requests are refused with 503; nothing here blocks.
    """

    def __init__(
        self, name: str, dispatcher: Any, *, created: int, default_priority: Priority = Priority.DEFAULT
    ) -> None:
        """`dispatcher` is the handle of the pool's dispatcher; `created` a Unix time that every replica agrees on."""
        self.name = name
        self.created = created
        self.default_priority = default_priority
        self._dispatcher = dispatcher
        self._readiness = Readiness(dispatcher)
        self._opening: asyncio.Task[None] | None = None
        self._front: Front | None = None
        self._text: ModelText | None = None
        self._failure: ExlpoolError | None = None

    def start(self) -> None:
        """Begin to open the front and to watch the pool; returns at once."""
        self._readiness.start()
        self._opening = asyncio.create_task(self._open())

    async def close(self) -> None:
        """Cancel everything that still runs here; the pool itself stays."""
        await self._readiness.close()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._front is not None:
            await self._front.close()

    @property
    def ready(self) -> bool:
        """Whether some worker can generate now, as far as this process knows."""
        return self._front is not None and self._readiness.ready

    @property
    def front(self) -> Front:
        """:raises NoHealthyWorker: the pool is not open yet, or failed."""
        if self._front is None:
            self._refuse()
        return self._front

    @property
    def text(self) -> ModelText:
        """:raises NoHealthyWorker: the pool is not open yet, or failed."""
        if self._text is None:
            self._refuse()
        return self._text

    @property
    def limits(self) -> Sequence[WorkerLimits]:
        """Of the workers that were there when the front was opened."""
        return self.front.limits

    @property
    def max_tokens(self) -> int | None:
        """Tokens of prompt and completion together that one request may have; None while the pool is opened."""
        return None if self._front is None else max(room_tokens(limit) for limit in self._front.limits)

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint`: equal where the same seed gives the same text, hardware aside."""
        first = self.limits[0]
        return "fp_" + hashlib.sha256(f"{self.name} {first.engine} {first.model}".encode()).hexdigest()[:10]

    def _refuse(self) -> NoReturn:
        if self._failure is not None:
            raise NoHealthyWorker(f"The model {self.name!r} could not be loaded: {self._failure.message}")
        raise NoHealthyWorker(f"The model {self.name!r} is being loaded.", retry_after_s=OPENING_RETRY_S)

    async def _open(self) -> None:
        try:
            front = await Front.open(self._dispatcher, patient=False)
            self._text = await asyncio.to_thread(ModelText, front.encoder)
            self._front = front
        except ExlpoolError as error:
            logger.error("Model %s cannot be served: %s", self.name, error)
            self._failure = error
        except Exception as error:
            logger.exception("Model %s cannot be served", self.name)
            self._failure = NoHealthyWorker(f"{type(error).__name__}: {error}")


class Models:
    """The models of one application, by name, in order; the first is meant where a request names none."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        if len(self._models) != len(models) or not models:
            raise ValueError("an application serves at least one model, each under a name of its own")

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel:
        """:raises ModelNotFound: no model has this name."""
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(f"The model {name!r} does not exist. Known: {', '.join(self._models)}.", param="model")
        return model

    def replace(self, model: ServedModel) -> ServedModel:
        """Serve `model` from now on in the place of the one with its name, which is returned: the caller closes it."""
        previous = self._models[model.name]
        self._models[model.name] = model
        return previous

    @property
    def first(self) -> ServedModel:
        return next(iter(self._models.values()))

    def start(self) -> None:
        for model in self._models.values():
            model.start()

    async def close(self) -> None:
        await asyncio.gather(*(model.close() for model in self._models.values()))
