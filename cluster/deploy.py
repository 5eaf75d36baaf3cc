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
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from actors.config import naming, read_settings
from actors.errors import ConfigurationError, ExlpoolError
from actors.wording import setting_error
from cluster.config import BUILDER, FRONT_NAME
from cluster.dashboard import Dashboard, DashboardUnreachable
from cluster.deploy_refusals import refused_settings
from cluster.deploy_schema import require_known_keys
from cluster.deploy_status import FAILED, cause
from cluster.server import check_exposure
from serve_app.config import LiveSettings, ServeConfig, live_settings, serve_config

DEFAULT_HOST = "127.0.0.1"
POLL_S = 0.5
SETTLE_S = 10.0
"""Time that Serve has to take a configuration up; one that changes nothing is never taken up."""
GONE_AFTER_S = 20.0
"""A dashboard that restarts is back by then."""
Report = Callable[[str, str], None]


class DeployFailed(ExlpoolError):
    """An application does not run."""

    code = "deploy_failed"


def load_deployment(path: Path) -> dict[str, Any]:
    """Read a file for Serve and check all of it.

    :raises ConfigurationError: it cannot be read, or something in it is unknown or wrong.
    """
    document = read_settings(path)
    with naming(path):
        _check(document)
    return document


def _check(document: dict[str, Any]) -> None:
    require_known_keys(document)
    try:
        schema = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        raise setting_error(error, ServeDeploySchema) from None
    host = str((document.get("http_options") or {}).get("host") or DEFAULT_HOST)
    for application in schema.applications:
        if application.import_path == BUILDER:
            _check_application(dict(application.args), application.deployments, host)
        else:
            _check_built(application.deployments, host)


def _check_application(args: dict[str, Any], deployments: Any, host: str) -> None:
    config = serve_config(**args)
    for deployment in deployments:
        if isinstance(deployment.user_config, dict):
            live = live_settings(config.live, deployment.user_config)
            config = ServeConfig(**{**config.model_dump(), **live.model_dump()})
    for listened in {host, config.listen.host if config.listen else host}:
        check_exposure(config, listened)


def _check_built(deployments: Any, host: str) -> None:
    """An application that somebody builds in Python, as far as the output of `serve build` tells of it."""
    for deployment in deployments:
        if deployment.name == FRONT_NAME:
            told = deployment.user_config if isinstance(deployment.user_config, dict) else {}
            check_exposure(live_settings(LiveSettings(), told), host)


def deploy(
    document: dict[str, Any],
    address: str,
    *,
    timeout_s: float,
    report: Report,
    delete_others: bool = False,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Bring a cluster to what `document` says, and wait until it is. `report` hears of every change of a status, and
    `look` is called again and again meanwhile.

    Serve ends every application that the document does not name, before those that it names run; so nothing is done
    where there is such a one, unless `delete_others`.

    :raises ConfigurationError: there is no cluster at the address, it refuses the configuration, or other applications
        would end.
    :raises DeployFailed: an application does not run, keeps other settings than the document's, or the cluster went
        away; the message says why.
    """
    deadline_s = time.monotonic() + timeout_s
    dashboard = Dashboard(address)
    names = [application["name"] for application in document["applications"]]
    found = dashboard.applications()
    if not delete_others:
        _require_no_others(found, names)
    before = {name: _deployed_at(details) for name, details in found.items()}
    dashboard.deploy(document)
    watch = _Watch(names, before, report)
    while not watch.all_running(_ask_patiently(dashboard, report)):
        if time.monotonic() > deadline_s:
            raise DeployFailed(f"Not running within {timeout_s:g} s: {watch.states()}.")
        look()
        time.sleep(POLL_S)  # a poll, bounded by the deadline above
    for name, reason in refused_settings(document, address).items():
        raise DeployFailed(f"{name}: the `user_config` is not in force, the settings are as before: {reason}")


def _require_no_others(found: Mapping[str, Any], names: list[str]) -> None:
    """:raises ConfigurationError: an application runs that the document does not name."""
    ending = [
        name
        for name, details in found.items()
        if name not in names and details.get("status") != ApplicationStatus.DELETING
    ]
    if ending:
        raise ConfigurationError(
            f"{', '.join(ending)} would end before what the file names runs, since the file does not name it: give the "
            "application the same `name`, list both, or say --delete-others.",
            param="applications",
        )


def _ask_patiently(dashboard: Dashboard, report: Report) -> dict[str, Any]:
    """The applications, through a restart of the dashboard if need be.

    :raises DeployFailed: it is gone for longer than that takes.
    """
    deadline_s = time.monotonic() + GONE_AFTER_S
    told = False
    while True:
        try:
            return dashboard.applications()
        except DashboardUnreachable as error:
            if time.monotonic() > deadline_s:
                raise DeployFailed(f"The cluster went away while its applications started. {error.message}") from None
            if not told:
                report(dashboard.address, "no answer, trying again")
                told = True
        time.sleep(POLL_S)  # a poll, bounded by the deadline above


class _Watch:
    """The applications of one deployment, from what Serve says of them again and again."""

    def __init__(self, names: list[str], before: Mapping[str, Any], report: Report) -> None:
        """`before`: when each application was deployed last, as it was before this deployment."""
        self._names, self._before, self._report = names, before, report
        self._told: dict[str, str] = {}
        self._started_s = time.monotonic()

    def all_running(self, applications: Mapping[str, Any]) -> bool:
        """Report what has changed; returns whether every application runs as it was deployed now.

        :raises DeployFailed: one does not run, and will not.
        """
        taken_up = {name: applications[name] for name in self._names if self._is_taken_up(name, applications)}
        for name, details in taken_up.items():
            status = details["status"]
            if self._told.get(name) != status:
                self._told[name] = status
                self._report(name, status)
            if status in FAILED:
                raise DeployFailed(f"{name}: {cause(details.get('message', ''), details.get('deployments'))}")
        running = [name for name, details in taken_up.items() if details["status"] == ApplicationStatus.RUNNING]
        return len(running) == len(self._names)

    def _is_taken_up(self, name: str, applications: Mapping[str, Any]) -> bool:
        """Whether what is told of an application is told of this deployment: Serve goes on telling of the one before
        until it takes the new one up, which one that changes nothing never is."""
        if name not in applications:
            return False
        settled = time.monotonic() - self._started_s > SETTLE_S
        return settled or _deployed_at(applications[name]) != self._before.get(name)

    def states(self) -> str:
        return ", ".join(f"{name} is {self._told.get(name, 'NOT_STARTED')}" for name in self._names)


def _deployed_at(application: Mapping[str, Any]) -> Any:
    return application.get("last_deployed_time_s")
