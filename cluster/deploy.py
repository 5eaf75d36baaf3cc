"""Deploy a YAML file for Serve and see it through: `exlpool deploy`.

Serve's own command ignores keys that it does not know, and says success before the application runs. This one checks
every key first, waits until every application runs, and tells why one does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from actors.config import read_settings
from actors.errors import ConfigurationError, ExlpoolError
from cluster.deploy_local import check_exposure
from cluster.deploy_schema import require_known_keys
from cluster.deploy_status import FAILED, cause
from serve_app.config import ServeConfig, configuration_error, live_settings, serve_config

BUILDER = "serve_app:build_app"
DEFAULT_HOST = "127.0.0.1"
POLL_S = 0.5
SETTLE_S = 10.0
"""Time that Serve has to take a configuration up; one that changes nothing is never taken up."""
Report = Callable[[str, str], None]


class DeployFailed(ExlpoolError):
    """An application does not run."""

    code = "deploy_failed"


def load_deployment(path: Path) -> dict[str, Any]:
    """Read a file for Serve and check all of it.

    :raises ConfigurationError: it cannot be read, or something in it is unknown or wrong.
    """
    document = read_settings(path)
    require_known_keys(document)
    try:
        schema = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        raise configuration_error(error) from None
    host = str((document.get("http_options") or {}).get("host") or DEFAULT_HOST)
    for application in schema.applications:
        if application.import_path == BUILDER:
            _check_application(dict(application.args), application.deployments, host)
    return document


def _check_application(args: dict[str, Any], deployments: Any, host: str) -> None:
    config = serve_config(**args)
    for deployment in deployments:
        if isinstance(deployment.user_config, dict):
            live = live_settings(config.live, deployment.user_config)
            config = ServeConfig(**{**config.model_dump(), **live.model_dump()})
    for listened in {host, config.listen.host if config.listen else host}:
        check_exposure(config, listened)


def deploy(document: dict[str, Any], address: str, *, timeout_s: float, report: Report) -> None:
    """Bring a cluster to what `document` says, and wait until it is. `report` hears of every change of a status.

    :raises ConfigurationError: there is no cluster at the address, or it refuses the configuration.
    :raises DeployFailed: an application does not run; the message says why.
    """
    deadline_s = time.monotonic() + timeout_s
    names = [application["name"] for application in document["applications"]]
    try:
        client = ServeSubmissionClient(address)
        before = _deployed_at(client.get_serve_details())
        client.deploy_applications(document)
    except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
        raise ConfigurationError(f"Cannot deploy to {address}: {_first_line(error)}") from None
    started_s = time.monotonic()
    told: dict[str, str] = {}
    while True:
        applications = client.get_serve_details().get("applications", {})
        settled = time.monotonic() - started_s > SETTLE_S
        taken_up = {
            name: applications[name]
            for name in names
            if name in applications and (settled or _deployed_at_one(applications[name]) != before.get(name))
        }
        for name, details in taken_up.items():
            if told.get(name) != details["status"]:
                told[name] = details["status"]
                report(name, details["status"])
            if details["status"] in FAILED:
                raise DeployFailed(f"{name}: {cause(details.get('message', ''), details.get('deployments'))}")
        if len(taken_up) == len(names) and all(d["status"] == ApplicationStatus.RUNNING for d in taken_up.values()):
            return
        if time.monotonic() > deadline_s:
            states = ", ".join(f"{name} is {told.get(name, 'NOT_STARTED')}" for name in names)
            raise DeployFailed(f"Not running within {timeout_s:g} s: {states}.")
        time.sleep(POLL_S)  # a poll, bounded by the deadline above


def _deployed_at(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _deployed_at_one(one) for name, one in details.get("applications", {}).items()}


def _deployed_at_one(application: Mapping[str, Any]) -> Any:
    return application.get("last_deployed_time_s")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
