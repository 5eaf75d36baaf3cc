"""A replica of the HTTP front: the API over fronts of this process to every pool, with the edge round it."""

import asyncio
import hashlib
import logging
from typing import Any, cast

from ray import serve
from starlette.types import ASGIApp

from actors.errors import ConfigurationError
from actors.supervisor import Supervisor
from serve_app.api.app import create_api
from serve_app.config import ModelConfig, ServeConfig, live_settings
from serve_app.edge import Edge
from serve_app.edge.auth import TokenCharges
from serve_app.edge.listener import Listener
from serve_app.metrics.prometheus import Metrics, Observers
from serve_app.models.served import Models
from serve_app.serving.front_start import until_ready
from serve_app.serving.live_keys import KEYS_POLL_S, Configurable, LiveKeys
from serve_app.serving.pool_follower import PoolFollower
from serve_app.serving.rate_link import RateLink

logger = logging.getLogger("ray.serve.exlpool")


@serve.ingress()
class HttpFront:
    """What Serve runs. It keeps its place when a pool is replaced: the model is then served from the next one."""

    async def __init__(self, config: ServeConfig, *owners: Any) -> None:  # type: ignore[misc] # Serve awaits it
        """`owners` are only there to make them part of the application.

        :raises ConfigurationError: the keys file is wrong, or a file for TLS.
        """
        context = serve.get_replica_context()
        self._app_name = context.app_name
        self._config = config
        version = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        self._name = f"{version} {context.replica_id.unique_id}"
        self._pools = [self._follower(model) for model in config.models]
        self._models = Models(await asyncio.gather(*(pool.find() for pool in self._pools)))
        self._listener: Listener | None = None
        self._started = False
        self._rates = RateLink(self._rates_home, replicas=config.fronts.max_replicas)
        self._rates.start()
        self._edges, self._app = self._make_app(Metrics(context.replica_id.unique_id))
        self._keys = LiveKeys(config.live, self._edges, lambda: [pool.pool.dispatcher for pool in self._pools])
        await self._keys.use(config.live)
        self._tasks = Supervisor("HttpFront")
        self._tasks.keep("watching the keys", self._keys.watch, pause_s=KEYS_POLL_S)
        for pool in self._pools:
            pool.follow(self._models, self._keys.weigh)

    def _follower(self, model: ModelConfig) -> PoolFollower:
        hold_s = self._config.drain_s + model.start_timeout_s
        return PoolFollower(self._app_name, model, self._name, hold_s=hold_s)

    async def _rates_home(self) -> Any:
        """The book of rates is kept by whoever holds the pool of the first model."""
        return self._pools[0].holder

    def _make_app(self, metrics: Metrics) -> tuple[list[Configurable], ASGIApp]:
        """What settings and keys are for, and what Serve shall run."""
        config = self._config
        api = create_api(
            self._models,
            observer=Observers(metrics, TokenCharges()),
            limits=config.api_limits,
            docs=config.docs,
            keys_file=lambda: self._keys.state,
            refused_settings=lambda: self._keys.refused,
        )
        metrics.tell_of_keys_file(lambda: self._keys.status)
        api.add_route("/metrics", metrics.endpoint(self._ask_statistics), include_in_schema=False)
        behind_proxy = Edge(api, rates=self._rates, announce_request_id=False)  # the proxy tells the client
        if config.listen is None:
            return [behind_proxy], cast("ASGIApp", behind_proxy)
        listened = Edge(api, rates=self._rates)
        self._listener = Listener(behind_proxy, listened, listen=config.listen, drain_s=config.drain_s)
        return [behind_proxy, self._listener], self._listener

    def _ask_statistics(self) -> dict[str, Any]:
        names = (model.name for model in self._config.models)
        return {name: pool.pool.dispatcher.statistics.remote() for name, pool in zip(names, self._pools, strict=True)}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's `user_config` changed: the fields of `LiveSettings` that it names; the others are as deployed.

        Serve takes a replica that raises here out of service. So one that serves keeps the settings it has where the
        new ones are wrong, says so, and goes on; one that begins fails.

        :raises ConfigurationError: a setting is unknown or wrong, or the keys file is, of a replica that begins.
        """
        try:
            await self._keys.use(live_settings(self._config.live, user_config or {}))
        except ConfigurationError as error:
            if not self._started:
                raise
            self._keys.refused = error.message
            logger.error("The settings stay as they were, since the new ones are wrong: %s", error.message)

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises. The first call is the end of a replica's start: the
        replica serves from then on, and listens.

        :raises RuntimeError: the listener has ended by itself.
        :raises OSError: the address cannot be listened on.
        """
        if not self._started:
            await until_ready(self._app_name, self._name, self._models)
            if self._listener is not None:
                await self._listener.start()
            self._started = True
        if self._listener is not None and self._listener.failure is not None:
            raise self._listener.failure

    async def __del__(self) -> None:
        if hasattr(self, "_tasks"):
            self._tasks.shut_down()
            self._rates.shut_down()
            for pool in self._pools:
                pool.release()

    def __repr__(self) -> str:
        return f"<HttpFront of {self._app_name}: {self._models!r}, listener: {self._listener!r}>"
