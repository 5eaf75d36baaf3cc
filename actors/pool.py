"""The pool as a script sees it: start or find one, generate, stream, map, close."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError

from actors.config import PoolConfig, pool_config
from actors.dispatcher.statistics import PoolStatistics, WorkerState
from actors.errors import ConfigurationError, ExlpoolError, NoHealthyWorker, PoolClosed
from actors.launch import Launched, find_members, launch
from actors.pool_names import closed_words
from actors.ray_session import ensure_ray
from actors.request.options import request_options
from actors.request.prompt import Prompt
from actors.results import GenerationResult
from actors.script.changes import GRACE_S, drain, keep, replace, scale
from actors.script.finding import find_pool
from actors.script.front_actor import end_front_actor, start_front_actor
from actors.script.fronts import ScriptFronts
from actors.script.map import map_prompts
from actors.script.openness import Openness
from actors.script.remote_generate import RemoteGenerate
from actors.script.sending import SameCluster
from actors.script.starting import ProgressCallback, follow_orders, wait_until_ready
from actors.script.text_stream import TextStream

T = TypeVar("T")

CLOSE_TIMEOUT_S = 15.0
RETRY_AFTER_S = 2.0


class Pool:
    """A pool of workers. Make one with `Pool.start` or find one with `Pool.connect`; use it in a `with` block.

    A pool that a script starts goes with the script, even when the script is killed, unless `detached` is set.

    It can be sent to tasks and actors of its cluster, and copied: what arrives is a connection to the same pool, which
    works while the object that was sent is open. Closing it leaves the pool alone.
    """

    def __init__(
        self, config: PoolConfig, dispatcher: Any, *, launched: Launched | None, owns_ray: bool, front: Any = None
    ) -> None:
        """`front` is the front actor of the pool object that this one was copied from."""
        self.config = config
        self._dispatcher = dispatcher
        self._launched = launched
        self._owns_ray = owns_ray
        self._fronts = ScriptFronts(dispatcher)
        self._owns_front = front is None
        self._front = start_front_actor(dispatcher) if front is None else front
        self._openness = Openness()
        self._orders = (
            None if launched is None or config.detached else follow_orders(self, launched.dispatcher, launched.starter)
        )
        self.generate = RemoteGenerate(self._front, self._openness)

    @classmethod
    def start(
        cls,
        model: str | Path | None = None,
        *,
        config: PoolConfig | None = None,
        address: str | None = None,
        progress: ProgressCallback | None = None,
        **settings: Any,
    ) -> Self:
        """Start workers and wait until the first of them can generate, or (`wait_for="all"`) every one. The others join
        as they are ready; of one that then fails the log and `workers()` tell.

        `settings` are the fields of `PoolConfig` (or give one as `config`); without a model it is the built-in one.
        Ray: the one this process is connected to, else the cluster at `address`, else a private one on this machine.
        `progress` is called with the state of all workers whenever it changes.

        Workers for which the cluster has no room wait for it, as for the nodes of an autoscaler (`wait`).

        :raises ConfigurationError: a setting is wrong, or the cluster cannot hold the workers and will not, or they
            are not ready within `start_timeout_s`.
        :raises ModelError: the model cannot be loaded.
        """
        if config is not None and (settings or model is not None):
            raise ConfigurationError("Give either a config or single settings, not both.")
        if model is not None:
            settings["model"] = model
        config = config or pool_config(**settings)
        owns_ray = ensure_ray(address)
        try:
            launched = launch(config)
            try:
                wait_until_ready(launched.dispatcher, config, progress)
                return cls(config, launched.dispatcher, launched=launched, owns_ray=owns_ray)
            except BaseException:
                launched.kill()
                raise
        except BaseException:
            if owns_ray:
                ray.shutdown()
            raise

    @classmethod
    def connect(cls, name: str = "default", *, address: str | None = None) -> Self:
        """Find a running pool by its name, or by that of the model that it serves, from any process of its cluster.
        Closing the result leaves the pool alone.

        While an application is updated, a model may have an old pool and a new one: it is the newest one that can
        generate. A connection whose pool gives way ends with `PoolClosed`, and connecting again finds the next one.

        Without `address` it is the cluster that this process is connected to, that of RAY_ADDRESS, or the one that
        runs on this machine.

        :raises PoolNotFound: there is none; it says which there are.
        """
        owns_ray = ensure_ray(address or "auto")
        try:
            dispatcher, config = find_pool(name)
        except BaseException:
            if owns_ray:
                ray.shutdown()
            raise
        return cls(config, dispatcher, launched=None, owns_ray=owns_ray)

    def stream(self, prompt: Prompt, **options: Any) -> TextStream:
        """The completion as it is made: iterate with `for` or `async for` over `Delta`s. Options as for `generate`.

        :raises InvalidRequest: an option is wrong. What is found wrong later is raised by the iteration.
        """
        self._openness.require()
        return TextStream(self._fronts, prompt, request_options(**options))

    def map(
        self,
        prompts: Iterable[Prompt],
        *,
        window: int | None = None,
        ordered: bool = True,
        return_errors: bool = False,
        progress: Callable[[int, GenerationResult | ExlpoolError], None] | None = None,
        **options: Any,
    ) -> Iterator[GenerationResult | ExlpoolError]:
        """Completions of many prompts, in their order or (`ordered=False`) as they are finished.

        `prompts` may be endless: at most `window` of them (default: four times what all workers run together) are
        under way. The first error is raised and cancels the rest, unless `return_errors` puts errors in the place of
        results. `progress(done, result)` is called for every finished prompt.
        """
        self._openness.require()
        if window is None:
            window = 4 * max(self.config.bounds) * self.config.max_batch_size
        if window < 1:
            raise ConfigurationError("window is at least 1.", param="window")
        chosen = request_options(**options)
        return map_prompts(
            lambda prompt: self._fronts.generate(prompt, chosen),
            prompts,
            window=window,
            ordered=ordered,
            return_errors=return_errors,
            progress=progress,
        )

    def statistics(self) -> PoolStatistics:
        """A snapshot of the dispatcher's whole state."""
        self._openness.require()
        snapshot: PoolStatistics = self._answer(self._dispatcher.statistics.remote())
        return snapshot

    def story(self, request_id: str) -> tuple[str, ...]:
        """What happened to a request, when and why there; empty for one that is unknown or long gone."""
        self._openness.require()
        lines: tuple[str, ...] = self._answer(self._dispatcher.story.remote(request_id))
        return lines

    def workers(self) -> tuple[WorkerState, ...]:
        """Every worker: its `state` ("up", "starting", "waiting", "draining", "lost"), what it does, where it is."""
        return self.statistics().workers

    def scale(self, workers: int, *, grace_s: float | None = GRACE_S, wait: bool = True) -> None:
        """Have so many workers from now on. No request fails: what runs on a worker that leaves ends there or, after
        `grace_s` (None: however long it takes), goes on elsewhere. Waits until it is done, or leaves it to the pool.

        :raises ConfigurationError: there may not be so many, or so few, or the cluster cannot hold them.
        :raises ModelError: a further worker cannot be loaded.
        """
        self._openness.require()
        scale(self._dispatcher, self.config, workers, grace_s, wait=wait)

    def drain(
        self, worker: str, *, grace_s: float | None = GRACE_S, restart: bool = False, wait: bool = True
    ) -> str | None:
        """Take a worker (its slot's name, or its id) out of the pool, as in `scale`. With `restart` a new one takes its
        place when it is gone; the name of its slot is returned.

        :raises ConfigurationError: there is no such worker, or it is the last one.
        :raises ModelError: the new one cannot be loaded.
        """
        self._openness.require()
        return drain(self._dispatcher, self.config, worker, grace_s, restart=restart, wait=wait)

    def keep(self, worker: str) -> None:
        """Call off that a worker leaves the pool: it is used again.

        :raises ConfigurationError: it is too late, or another one is to take its place.
        """
        self._openness.require()
        keep(self._dispatcher, worker)

    def replace(self, *, grace_s: float | None = GRACE_S, wait: bool = True, **settings: Any) -> None:
        """Roll other settings of the engine (fields of `EngineConfig`, such as `model`) over the workers, one after the
        other, as in `drain`; without settings all are started anew. Prompts stay valid: another tokenizer, a smaller
        context or fewer pages are refused, and where a new worker shows that, or cannot be loaded, all is taken back.

        :raises ConfigurationError: a setting is wrong or was taken back, in one sentence.
        :raises ModelError: the model directory is unusable.
        """
        self._openness.require()
        replace(self._dispatcher, settings, grace_s, wait=wait)

    def close(self) -> None:
        """End what this object started: the workers too if it started them and they are not detached. Safe to call
        twice. Every part is ended whatever becomes of the others.

        :raises TimeoutError: a front of this process does not end; everything else is ended by then.
        """
        if self._openness.closed:
            return
        self._openness.close()
        with ExitStack() as last_first:
            if not self._openness.cut_off:  # else all of it is gone, and a call would look for it in another cluster
                if self._owns_ray:
                    last_first.callback(ray.shutdown)
                if self._launched is not None and not self.config.detached:
                    last_first.callback(_stop, self._launched)
                if self._orders is not None:
                    last_first.callback(self._orders.close)
                if self._owns_front:
                    last_first.callback(end_front_actor, self._front)
            last_first.callback(self._forget_front)
            last_first.callback(self._fronts.close)

    def _answer(self, reference: ray.ObjectRef[T]) -> T:
        """What the dispatcher says.

        :raises NoHealthyWorker: it does not answer at the moment.
        :raises PoolClosed: it is gone.
        """
        try:
            return ray.get(reference, timeout=CLOSE_TIMEOUT_S)
        except ActorDiedError:
            gone = closed_words(self.config.name, "The pool's dispatcher is gone; start the pool again.")
            raise PoolClosed(gone) from None
        except (ActorUnavailableError, GetTimeoutError):
            raise NoHealthyWorker("The pool's dispatcher does not answer.", retry_after_s=RETRY_AFTER_S) from None

    def _forget_front(self) -> None:
        """Its process goes with the last handle of it."""
        self._front = None
        self.generate.forget()

    def delete(self) -> None:
        """End a pool for everybody, a detached one too, in whatever state its workers are."""
        self._openness.require()
        members = find_members(self.config.name) if self._launched is None or self.config.detached else self._launched
        self._launched = None
        try:
            _stop(members)
        finally:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._openness.require()
        return _arrived, (SameCluster(), type(self), self.config, self._dispatcher, self._front)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy(self)

    def __enter__(self) -> Self:
        self._openness.require()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pool {self.config.name!r}: {self.config.workers} workers, {self._openness!r}>"


def _arrived(_: SameCluster, cls: type[Pool], config: PoolConfig, dispatcher: Any, front: Any) -> Pool:
    return cls(config, dispatcher, launched=None, owns_ray=False, front=front)


def _stop(members: Launched) -> None:
    members.starter.close()
    with suppress(RayError):  # it is killed next, whatever state it is in
        ray.get(members.dispatcher.close.remote(), timeout=CLOSE_TIMEOUT_S)
    members.kill()
