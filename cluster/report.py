"""What of a deployment runs where: its models with their workers, its fronts, and where it is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from actors.dispatcher.statistics import WorkerState
from actors.errors import ConfigurationError, ExlpoolError
from actors.script import changes
from actors.script.finding import find_pool
from cluster.config import FRONT_NAME
from cluster.deploy_status import cause
from cluster.urls import local_url

OWNER_PREFIX = "PoolOwner-"
"""As in `serve_app.serving.deployment`, which takes seconds to import."""
RUNNING = "RUNNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """A worker of a model: its state in one word, the node that it runs on, the GPUs there that are its own, and what
    there is to say beside that: how far it has loaded, or why it is lost."""

    name: str
    state: str
    node: str
    gpus: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A served model, the name of its pool (None: there is none, or it does not answer), and its workers."""

    name: str
    pool: str | None
    workers: tuple[WorkerPlace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPlace:
    """A replica of the HTTP front."""

    node: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """An application as it is now. `message` says what is wrong with it; empty: nothing."""

    application: str
    status: str
    message: str
    urls: tuple[str, ...]
    models: tuple[ModelPlace, ...]
    fronts: tuple[FrontPlace, ...]

    @property
    def well(self) -> bool:
        """It runs, and so does every model of it."""
        states = [worker.state for model in self.models for worker in model.workers]
        return self.status == RUNNING and all(model.pool for model in self.models) and "lost" not in states


def read_report(details: Mapping[str, Any], name: str) -> DeploymentReport:
    """What `details`, from Serve, and the pools of the cluster that this process is connected to tell of an
    application.

    :raises ConfigurationError: there is no such application.
    """
    applications = details.get("applications", {})
    if name not in applications:
        others = f"; there are: {', '.join(sorted(applications))}" if applications else ""
        raise ConfigurationError(f"No application named {name!r} runs on this cluster{others}.", param="name")
    application = applications[name]
    deployments: Mapping[str, Any] = application.get("deployments", {})
    models = [one.removeprefix(OWNER_PREFIX) for one in deployments if one.startswith(OWNER_PREFIX)]
    status = str(application["status"])
    return DeploymentReport(
        application=name,
        status=status,
        message="" if status == RUNNING else cause(application.get("message", ""), deployments),
        urls=_urls(details, application),
        models=tuple(_model(model) for model in models),
        fronts=tuple(
            FrontPlace(node=str(replica.get("node_ip") or ""), state=str(replica["state"]))
            for replica in deployments.get(FRONT_NAME, {}).get("replicas", ())
        ),
    )


def _model(name: str) -> ModelPlace:
    try:
        dispatcher, config = find_pool(name)
        states: tuple[WorkerState, ...] = changes.tell(lambda: dispatcher.progress.remote(changes.ANY_VERSION))[1]
    except (ExlpoolError, RayError):
        return ModelPlace(name=name, pool=None, workers=())
    return ModelPlace(name=name, pool=config.name, workers=tuple(_worker(state) for state in states))


def _worker(state: WorkerState) -> WorkerPlace:
    detail = ""
    if state.failure is not None:
        detail = str(state.failure)
    elif state.worker_id is None and state.loading is not None:
        detail = "{} {}/{}".format(*state.loading)
    return WorkerPlace(name=state.slot_name, state=state.state, node=state.node, gpus=state.gpus, detail=detail)


def _urls(details: Mapping[str, Any], application: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the machine itself, and of the front's own listener."""
    args = (application.get("deployed_app_config") or {}).get("args") or {}
    http, listen = details.get("http_options") or {}, args.get("listen") or {}
    places = ((http, http.get("ssl_certfile")), (listen, listen.get("tls_certificate")))
    return tuple(
        local_url(place.get("host") or "127.0.0.1", place["port"], tls=bool(certificate))
        for place, certificate in places
        if place.get("port")
    )
