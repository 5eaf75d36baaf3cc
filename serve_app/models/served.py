"""The models that an application serves: each name stands for a pool, with a front of this process to it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ray.exceptions import ActorDiedError, RayError

from actors.errors import ExlpoolError, NoHealthyWorker, first_line
from actors.front.front import Front
from actors.messages import WorkerLimits
from actors.ray_failures import plain_reason
from actors.ray_session import is_gone
from actors.request.checks import room_tokens
from actors.request.grammar.checker import GrammarChecker
from actors.results import Priority
from actors.supervisor import Supervisor
from serve_app.errors import ModelNotFound
from serve_app.models.gate import Gate
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
        self.grammars = GrammarChecker()
        self._dispatcher = dispatcher
        self._readiness = Readiness(dispatcher)
        self._tasks = Supervisor(f"model {name}")
        self._front: Front | None = None
        self._text: ModelText | None = None
        self._failure: ExlpoolError | None = None

    def start(self) -> None:
        """Begin to open the front and to watch the pool; returns at once."""
        self._readiness.start()
        self._tasks.start("opening the front", self._open(), on_end=self._opening_ended)

    async def close(self) -> None:
        """Cancel everything that still runs here; the pool itself stays."""
        self._tasks.shut_down()
        await self._tasks.wait_closed()
        await self._readiness.close()
        self.grammars.close()
        if self._front is not None:
            await self._front.close()

    @property
    def ready(self) -> bool:
        """Whether some worker can generate now, as far as this process knows, and this process can reach it."""
        return self._front is not None and self._readiness.ready and self._front.reachable

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

    @property
    def under_way(self) -> int:
        """Requests of this process that the pool has, or is asked to take."""
        return 0 if self._front is None else self._front.under_way

    def _refuse(self) -> NoReturn:
        if self._failure is not None:
            raise NoHealthyWorker(f"The model {self.name!r} could not be loaded: {self._failure.message}")
        raise NoHealthyWorker(f"The model {self.name!r} is being loaded.", retry_after_s=OPENING_RETRY_S)

    async def _open(self) -> None:
        """Open the front, again and again: what kept it shut may pass. Meanwhile clients are told the last failure."""
        while True:
            try:
                await self._open_once()
            except ExlpoolError as error:
                self._fail(error, error)
            except RayError as error:
                cause = getattr(error, "cause", None)
                gone = isinstance(error, ActorDiedError) and await is_gone(self._dispatcher)
                lost = "Its pool is gone." if gone else "Its pool cannot be reached."
                self._fail(cause if isinstance(cause, ExlpoolError) else NoHealthyWorker(lost), error)
                if gone:
                    return  # whoever follows the pool serves the model from the next one
            else:
                self._failure = None
                return
            await asyncio.sleep(OPENING_RETRY_S)

    async def _open_once(self) -> None:
        front = await Front.open(self._dispatcher, patient=False)
        try:
            self._text = await asyncio.to_thread(ModelText, front.encoder)
        except BaseException:
            front.shut_down()
            raise
        self._front = front

    def _fail(self, failure: ExlpoolError, cause: Exception) -> None:
        """Clients are told the failure, the log its cause."""
        if failure.message != getattr(self._failure, "message", None):  # told once, not at every try
            logger.error("Model %s cannot be served: %s", self.name, first_line(cause))
        self._failure = failure

    def _opening_ended(self, failure: BaseException | None) -> None:
        """Nobody foresaw a failure that gets here, so nothing is tried again."""
        if failure is not None:
            logger.error("Model %s cannot be served", self.name, exc_info=failure)
            self._failure = NoHealthyWorker(f"{type(failure).__name__}: {plain_reason(failure)}")

    def __repr__(self) -> str:
        state = "open" if self._front is not None else "failed" if self._failure is not None else "being opened"
        return f"<ServedModel {self.name}: {state}, {'ready' if self.ready else 'not ready'}>"


class Models:
    """The models of one application, by name, in order; the first is meant where a request names none."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        if len(self._models) != len(models) or not models:
            raise ValueError("an application serves at least one model, each under a name of its own")
        self._gates = {name: Gate(name) for name in self._models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel:
        """:raises ModelNotFound: no model has this name."""
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(f"The model {name!r} does not exist. Known: {', '.join(self._models)}.", param="model")
        return model

    def gate(self, name: str) -> Gate:
        """What requests for a model go through before they are prepared.

        :raises ModelNotFound: no model has this name.
        """
        return self._gates[self.get(name).name]

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

    def __repr__(self) -> str:
        return f"<Models: {', '.join(map(repr, self._models.values()))}>"
