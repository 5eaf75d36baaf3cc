"""Serve models on this machine, for as long as the caller wants: `exlpool serve`."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
import urllib.error
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.schema import ApplicationStatus

from actors.builtin_model import builtin_model_path
from actors.dispatcher.statistics import WorkerState
from actors.engines.registry import resolve_engine_name
from actors.errors import ConfigurationError, ExlpoolError, ModelError, first_line
from actors.front.front import Front
from actors.model_files.prompt_files import digest_here
from actors.ray_session import NAMESPACE, ensure_ray, starts_private_cluster
from actors.request.prompt import PromptEncoder
from cluster.bounded import ClusterSilent, call_within
from cluster.config import APP_NAME
from cluster.deploy_status import FAILED, cause
from cluster.ending import end_application
from cluster.ready import ask_ready
from cluster.urls import local_url
from serve_app.config import ListenConfig, LiveSettings, ModelConfig, ServeConfig
from serve_app.edge.keys_file import load_keys
from serve_app.edge.proxy import use_in_proxies
from serve_app.models.text import ModelText
from serve_app.serving.pool_names import holder_name

logger = logging.getLogger(__name__)

POLL_S = 0.2
ASK_S = 5.0
ASK_TIMEOUT_S = 30.0
START_TIMEOUT_S = 120.0
"""Time that Serve itself has to start, and to take an application up."""
CLOSE_TIMEOUT_S = 20.0
DRAIN_S = 5.0
"""Who interrupts the server does not wait longer for requests that run, whatever `drain_s` says of updates."""
Progress = Callable[[tuple[WorkerState, ...]], None]


class OwnServer:
    """Models behind HTTP, from `with` to its end. Nothing of it is left afterwards."""

    def __init__(
        self,
        config: ServeConfig,
        *,
        listen: ListenConfig,
        address: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """:raises ConfigurationError: the port is taken, a file is wrong, or strangers could ask without a key.
        :raises ModelError: a model cannot be served; it names which."""
        check_exposure(config, listen.host)
        listen.require_tls_files()
        _require_free_port(listen.host, listen.port)
        if config.keys_file is not None:
            load_keys(config.keys_file)
        alone = starts_private_cluster(address)
        self._chats = {model.name: _can_chat(model, alone=alone) for model in config.models}
        replicas = config.fronts.min_replicas
        own_listener = {
            "listen": listen,
            "fronts": config.fronts.model_copy(update={"max_replicas": replicas}),
            "drain_s": min(config.drain_s, DRAIN_S),
        }
        self._config, self._listen = config.model_copy(update=own_listener), listen
        self._address, self._progress = address, progress
        self._owns_ray = False
        self._told: str = ApplicationStatus.RUNNING

    @property
    def url(self) -> str:
        listen = self._listen
        return local_url(listen.host, listen.port, tls=listen.tls_certificate is not None)

    def chats(self, model: str) -> bool:
        """Whether a model that is served answers messages: others only continue a text."""
        chats = self._chats[model]
        if chats is None:
            config = next(config for config in self._config.models if config.name == model)
            with contextlib.suppress(ExlpoolError, RayError, ValueError):  # it may be away at the moment
                chats = call_within(ASK_TIMEOUT_S, "whether a model chats", lambda: _has_template(config))
        return bool(chats)

    def __enter__(self) -> Self:
        """Returns when every worker is ready, and every model is served.

        :raises ConfigurationError: the application could not be started; the message says why.
        :raises ClusterSilent: the cluster does not answer.
        """
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        use_in_proxies()
        self._owns_ray = ensure_ray(self._address)
        try:
            self._start()
            self._wait()
            self._wait_until_served()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def watch(self) -> None:
        """Look after the application once: it still runs, or is on its way back.

        :raises ConfigurationError: somebody else has ended it.
        :raises ClusterSilent: the cluster does not answer.
        """
        application = self._status().applications.get(APP_NAME)
        if application is None:
            raise ConfigurationError("The application was deleted from the cluster.")
        if application.status != self._told:
            self._told = application.status
            logger.warning(
                "The application is %s. %s", application.status, cause(application.message, application.deployments)
            )

    def close(self) -> None:
        if not ray.is_initialized():
            return
        if self._owns_ray:
            ray.shutdown()  # everything goes with the private cluster
            return
        with contextlib.suppress(ClusterSilent, RayError):  # a cluster that went away has taken it along
            end_application(APP_NAME, timeout_s=CLOSE_TIMEOUT_S)

    def _start(self) -> None:
        from serve_app import build_app

        found = self._status()
        if found.applications or found.proxies:
            raise ConfigurationError("Ray Serve runs on this cluster already: use `exlpool deploy` there.")
        target = serve.RunTarget(target=build_app(self._config), name=APP_NAME, route_prefix="/")

        def start() -> None:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})  # the front listens itself
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

        call_within(START_TIMEOUT_S, "start Ray Serve", start)

    def _wait(self) -> None:
        """Until the application runs, or fails."""
        load_timeout_s = max(model.start_timeout_s for model in self._config.models)
        deadline_s = time.monotonic() + load_timeout_s + START_TIMEOUT_S
        while True:
            application = self._status().applications[APP_NAME]
            if application.status == ApplicationStatus.RUNNING:
                return
            if application.status in FAILED:
                raise ConfigurationError(self._cause(application))
            if time.monotonic() > deadline_s:
                raise ConfigurationError(
                    f"Not ready within `start_timeout_s`, {load_timeout_s:g} s, and {START_TIMEOUT_S:g} s for Ray "
                    f"Serve: {self._cause(application)}"
                )
            if self._progress is not None:
                self._progress(self._workers())
            time.sleep(POLL_S)  # a poll, bounded by the deadline above

    def _cause(self, application: Any) -> str:
        """What is wrong with the application, with the name of the model if it is one of several."""
        from serve_app.serving.deployment import owner_name

        told = cause(application.message, application.deployments)
        if len(self._config.models) > 1:
            for model in self._config.models:
                deployment = application.deployments.get(owner_name(model))
                if deployment is not None and deployment.message:
                    return f"{model.name}: {told}"
        return told

    def _wait_until_served(self) -> None:
        """Until the front says so: it reads what belongs to a model by itself, after the workers."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while (told := _refusal(self.url)) is not None:
            if time.monotonic() > deadline_s:
                raise ConfigurationError(f"Not served within {START_TIMEOUT_S:g} s: {told}")
            time.sleep(POLL_S)  # a poll, bounded by the deadline above

    def _status(self) -> Any:
        return call_within(ASK_TIMEOUT_S, "the status of Ray Serve", serve.status)

    def _workers(self) -> tuple[WorkerState, ...]:
        """The workers of all models, as far as they are there."""
        found: list[WorkerState] = []
        for model in self._config.models:
            with contextlib.suppress(ValueError, RayActorError, RayTaskError, TimeoutError):
                holder: Any = ray.get_actor(holder_name(APP_NAME, model), namespace=NAMESPACE)
                pool = ray.get(holder.pool.remote(), timeout=ASK_S)
                found += ray.get(pool.dispatcher.progress.remote(-1), timeout=ASK_S)[1]
        return tuple(found)


def _can_chat(model: ModelConfig, *, alone: bool) -> bool | None:
    """Read what a front will read of a model, before anything starts; None: this machine does not have it, but the
    nodes of a cluster may. Where this machine is `alone` it has to have all that the model needs.

    :raises ModelError: it cannot be served; its name is told.
    """
    directory = model.model or builtin_model_path()
    try:
        if alone:
            resolve_engine_name(model)
        elif not digest_here(directory):
            return None
        encoder = PromptEncoder.load(directory)
        ModelText(encoder)
    except ModelError as error:
        raise ModelError(f"{model.name} cannot be served: {error.message}") from None
    return encoder.template_source is not None


def _has_template(model: ModelConfig) -> bool:
    """Of a model that is served, whose files are on other nodes."""

    async def look(dispatcher: Any) -> bool:
        front = await Front.open(dispatcher, patient=False)
        await front.close()
        return front.encoder.template_source is not None

    holder: Any = ray.get_actor(holder_name(APP_NAME, model), namespace=NAMESPACE)
    return asyncio.run(look(ray.get(holder.pool.remote(), timeout=ASK_S).dispatcher))


def _refusal(url: str) -> str | None:
    """Why the front is not ready; None: it is."""
    try:
        ask_ready(url)
    except ValueError:
        return "what answers there is no front of exlpool"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.reason}"
    except OSError as error:
        return first_line(error)
    return None


def check_exposure(config: LiveSettings, host: str) -> None:
    """Without keys nobody but this machine is served, unless that is what somebody wants.

    :raises ConfigurationError: the server would listen to others, and answer them.
    """
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigurationError(f"host is an IP address, not {host!r}.", param="host") from None
    if not local and config.keys_file is None and not config.remote_without_keys:
        raise ConfigurationError(
            f"Without keys a server listens on this machine only, not on {host}: make a `keys_file` with "
            "`exlpool keys new`, or set `remote_without_keys`.",
            param="host",
        )


def _require_free_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(f"Cannot listen on {host} port {port}: {error.strerror}.", param="port") from None
