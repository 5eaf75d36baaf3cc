"""A replica of the HTTP front: the API over fronts of this process to every pool, with the edge round it."""

import asyncio
import contextlib
import logging
from typing import Any, cast

from ray import serve
from ray.exceptions import RayError
from starlette.types import ASGIApp

from actors.supervisor import Supervisor
from serve_app.api.app import create_api
from serve_app.config import ModelConfig, ServeConfig, live_settings
from serve_app.edge import Edge
from serve_app.edge.auth import TokenCharges
from serve_app.edge.listener import Listener
from serve_app.metrics.prometheus import Metrics, Observers
from serve_app.models.served import Models, ServedModel
from serve_app.serving.live_keys import KEYS_POLL_S, Configurable, LiveKeys
from serve_app.serving.pool_holder import HeldPool
from serve_app.serving.pool_lease import find_holder, find_pool
from serve_app.serving.rate_link import RateLink

logger = logging.getLogger("ray.serve.exlpool")

FOLLOW_RETRY_S = 1.0


@serve.ingress()
class HttpFront:
    """What Serve runs. It keeps its place when a pool is replaced: the model is then served from the next one."""

    async def __init__(self, config: ServeConfig, *owners: Any) -> None:  # type: ignore[misc] # Serve awaits it
        """`owners` are only there to make them part of the application.

        :raises ConfigurationError: the keys file is wrong.
        """
        context = serve.get_replica_context()
        self._app_name = context.app_name
        self._config = config
        found = await asyncio.gather(*(find_pool(self._app_name, model.name) for model in config.models))
        self._pools = {model.name: pool for model, (_, pool) in zip(config.models, found, strict=True)}
        self._models = Models([_served(model, self._pools[model.name]) for model in config.models])
        self._listener: Listener | None = None
        self._rates = self._link_rates()
        self._edges, self._app = self._make_app(Metrics(context.replica_id.unique_id))
        self._keys = LiveKeys(config.live, self._edges, lambda: [pool.dispatcher for pool in self._pools.values()])
        await self._keys.use(config.live)
        self._tasks = Supervisor("HttpFront")
        self._tasks.keep("watching the keys", self._keys.watch, pause_s=KEYS_POLL_S)
        for model, (holder, _) in zip(config.models, found, strict=True):
            self._follow_pool(model, holder)

    def _link_rates(self) -> RateLink:
        first, replicas = self._config.models[0].name, self._config.fronts.max_replicas
        link = RateLink(lambda: find_holder(self._app_name, first), replicas=replicas)
        link.start()
        return link

    def _make_app(self, metrics: Metrics) -> tuple[list[Configurable], ASGIApp]:
        """What settings and keys are for, and what Serve shall run."""
        config = self._config
        api = create_api(
            self._models,
            observer=Observers(metrics, TokenCharges()),
            limits=config.api_limits,
            docs=config.docs,
            keys_file=lambda: self._keys.state,
        )
        metrics.tell_of_keys_file(lambda: self._keys.status)
        api.add_route("/metrics", metrics.endpoint(self._ask_statistics), include_in_schema=False)
        behind_proxy = Edge(api, rates=self._rates, announce_request_id=False)  # the proxy tells the client
        if config.listen is None:
            return [behind_proxy], cast("ASGIApp", behind_proxy)
        listened = Edge(api, rates=self._rates)
        self._listener = Listener(
            behind_proxy, listened, host=config.listen.host, port=config.listen.port, drain_s=config.drain_s
        )
        return [behind_proxy, self._listener], self._listener

    def _ask_statistics(self) -> dict[str, Any]:
        return {name: pool.dispatcher.statistics.remote() for name, pool in self._pools.items()}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's `user_config` changed: the fields of `LiveSettings` that it names.

        :raises ConfigurationError: a setting is unknown or wrong, or the keys file is; nothing has changed then.
        """
        await self._keys.use(live_settings(self._config.live, user_config or {}))

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises.

        :raises RuntimeError: the listener has ended by itself.
        """
        if self._listener is not None and self._listener.failure is not None:
            raise self._listener.failure

    async def __del__(self) -> None:
        if hasattr(self, "_tasks"):
            self._tasks.shut_down()
            self._rates.shut_down()

    def _follow_pool(self, model: ModelConfig, holder: Any) -> None:
        self._tasks.keep(
            f"following the pool of {model.name}", lambda: self._follow(model, holder), pause_s=FOLLOW_RETRY_S
        )

    async def _follow(self, model: ModelConfig, holder: Any) -> None:
        """Serve the model from its next pool when its pool is replaced.

        Not every error of the call means that: a link can break while the holder lives, and then the same pool is
        found again, whose requests must go on.
        """
        while True:
            with contextlib.suppress(RayError):
                await holder.over.remote()
            holder, pool = await find_pool(self._app_name, model.name)
            if pool.life == self._pools[model.name].life:
                await asyncio.sleep(FOLLOW_RETRY_S)
                continue
            logger.warning("The pool of %s is another one now", model.name)
            self._pools[model.name] = pool
            self._keys.weigh()
            served = _served(model, pool)
            served.start()
            await self._models.replace(served).close()

    def __repr__(self) -> str:
        return f"<HttpFront of {self._app_name}: {self._models!r}, listener: {self._listener!r}>"


def _served(model: ModelConfig, pool: HeldPool) -> ServedModel:
    return ServedModel(model.name, pool.dispatcher, created=pool.created, default_priority=model.default_priority)
