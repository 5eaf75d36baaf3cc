"""The Serve application: a deployment of the HTTP front, and one owner per model's pool."""

import asyncio
import contextlib
import logging
from typing import Any, cast

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from starlette.types import ASGIApp

from actors.errors import ConfigurationError
from serve_app.api.app import create_api
from serve_app.config import ModelConfig, ServeConfig, live_settings
from serve_app.edge import Edge
from serve_app.edge.auth import Accounts, TokenCharges
from serve_app.edge.keys import KeyRing, load_keys
from serve_app.edge.listener import Listener
from serve_app.metrics.prometheus import Metrics, Observers
from serve_app.models.served import Models, ServedModel
from serve_app.serving.pool_holder import HeldPool
from serve_app.serving.pool_owner import PoolOwner, find_pool

logger = logging.getLogger("ray.serve.exlpool")

UNLIMITED = 1_000_000
"""The pool's dispatcher admits, and knows why; Serve must never refuse or hold back a request before it."""
OWNER_STOP_S = 5.0
KEYS_POLL_S = 1.0
FRONT_NAME = "HttpFront"
_LOGGING = {"enable_access_log": False, "log_level": "INFO"}


@serve.ingress()
class HttpFront:
    """A replica of the front: the API over a front of its own to every pool, with the edge round it."""

    async def __init__(self, config: ServeConfig, *owners: Any) -> None:  # type: ignore[misc] # Serve awaits it
        """`owners` are only there to make them part of the application.

        :raises ConfigurationError: the keys file is wrong.
        """
        context = serve.get_replica_context()
        self._app_name = context.app_name
        self._config = config
        self._live = config.live
        self._keys_stamp: object = None
        self._keys: KeyRing | None = None
        found = await asyncio.gather(*(find_pool(self._app_name, model.name) for model in config.models))
        self._dispatchers: dict[str, Any] = {}
        self._models = Models(
            [self._served(model, pool) for model, (_, pool) in zip(config.models, found, strict=True)]
        )
        metrics = Metrics(context.replica_id.unique_id)
        api = create_api(
            self._models, observer=Observers(metrics, TokenCharges()), limits=config.api_limits, docs=config.docs
        )
        read = metrics.endpoint(lambda: {name: d.statistics.remote() for name, d in self._dispatchers.items()})
        api.add_route("/metrics", read, include_in_schema=False)
        accounts = Accounts()
        behind_proxy = Edge(api, accounts=accounts, announce_request_id=False)  # the proxy tells the client
        self._edges, self._app = [behind_proxy], cast("ASGIApp", behind_proxy)
        if config.listen is not None:
            self._edges.append(Edge(api, accounts=accounts))
            host, port = config.listen.host, config.listen.port
            self._app = Listener(
                behind_proxy,
                self._edges[1],
                host=host,
                port=port,
                drain_s=config.drain_s,
                head_timeout_s=config.body_timeout_s,
            )
        await self._load_keys()
        self._tasks = [
            asyncio.create_task(self._follow(model, holder))
            for model, (holder, _) in zip(config.models, found, strict=True)
        ]
        self._tasks.append(asyncio.create_task(self._watch_keys()))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's `user_config` changed: the fields of `LiveSettings` that it names.

        :raises ConfigurationError: a setting is unknown or wrong, or the keys file is.
        """
        live = live_settings(self._config.live, user_config or {})
        if live.keys_file is not None:
            await asyncio.to_thread(load_keys, live.keys_file)  # refuse what is wrong before anything changes
        self._live = live
        await self._load_keys()

    async def __del__(self) -> None:
        for task in getattr(self, "_tasks", ()):
            task.cancel()

    def _served(self, model: ModelConfig, pool: HeldPool) -> ServedModel:
        self._dispatchers[model.name] = pool.dispatcher
        self._weigh(model.name)
        return ServedModel(model.name, pool.dispatcher, created=pool.created, default_priority=model.default_priority)

    async def _follow(self, model: ModelConfig, holder: Any) -> None:
        """Serve the model from its next pool when its pool is replaced."""
        while True:
            with contextlib.suppress(RayActorError):
                await holder.over.remote()
            logger.warning("The pool of %s is gone, waiting for the next one", model.name)
            holder, pool = await find_pool(self._app_name, model.name)
            served = self._served(model, pool)
            served.start()
            await self._models.replace(served).close()

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_POLL_S)
            for name in self._dispatchers:
                self._weigh(name)  # again and again: a dispatcher that was restarted has forgotten it
            try:
                if await asyncio.to_thread(self._stamp) != self._keys_stamp:
                    await self._load_keys()
                    logger.info("The keys were read anew")
            except ConfigurationError as error:
                logger.error("The keys stay as they were: %s", error.message)

    async def _load_keys(self) -> None:
        """Read the keys, and put settings and keys into force."""
        self._keys_stamp = await asyncio.to_thread(self._stamp)
        path = self._live.keys_file
        self._keys = None if path is None else await asyncio.to_thread(load_keys, path)
        for edge in self._edges:
            edge.configure(self._live, self._keys)
        for name in self._dispatchers:
            self._weigh(name)

    def _stamp(self) -> object:
        """Changes when the keys file does."""
        path = self._live.keys_file
        if path is None:
            return None
        try:
            state = path.stat()
        except OSError:
            return "missing"
        return (state.st_mtime_ns, state.st_size, state.st_ino)

    def _weigh(self, model: str) -> None:
        if self._keys is not None:
            self._dispatchers[model].weigh.remote(self._keys.weights)


def build_app(args: ServeConfig) -> Application:
    """The application: `serve run serve_app:build_app model=DIR workers=4`, or `args` in a YAML file for Serve.

    :raises ConfigurationError: the keys file is wrong.
    """
    if args.keys_file is not None and args.keys_file.exists():
        load_keys(args.keys_file)  # on this machine; each replica reads its own
    scaling = args.fronts
    fixed = scaling.min_replicas == scaling.max_replicas
    replicas: dict[str, Any] = (
        {"num_replicas": scaling.min_replicas}
        if fixed
        else {
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": scaling.max_replicas,
                "target_ongoing_requests": scaling.target_requests,
            }
        }
    )
    front = serve.deployment(
        name=FRONT_NAME,
        max_ongoing_requests=UNLIMITED,
        max_queued_requests=-1,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=args.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": scaling.cpus},
        logging_config=_LOGGING,
        **replicas,
    )(HttpFront)
    return front.bind(args, *(_owner(model, args.drain_s) for model in args.models))


def _owner(model: ModelConfig, drain_s: float) -> Application:
    owner = serve.deployment(
        name=f"PoolOwner-{model.name}",
        num_replicas=1,
        max_surge_percent=100,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=OWNER_STOP_S,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=2.0,
        ray_actor_options={"num_cpus": 0},
        logging_config=_LOGGING,
    )(PoolOwner)
    return owner.bind(model, drain_s)
