"""Brings a machine or a cluster to what one file says, and takes it away again: `exlpool up`, `status` and `down`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import ConfigurationError, ExlpoolError
from actors.ray_session import ensure_ray
from cluster import own_cluster
from cluster.config import ClusterConfig, serve_document
from cluster.dashboard import Dashboard, dashboard_of
from cluster.deploy import deploy
from cluster.ending import end_application
from cluster.own_cluster import OwnCluster
from cluster.report import DeploymentReport, read_report
from cluster.server import check_exposure

Report = Callable[[str], None]
Progress = Callable[[DeploymentReport], None]
ANSWER_S = 2.0


def check(config: ClusterConfig) -> None:
    """What can be found wrong before anything is touched.

    :raises ConfigurationError: strangers could ask without a key, or the keys file is wrong.
    """
    for host in {config.http.host, config.listen.host if config.listen else config.http.host}:
        check_exposure(config, host)
    if config.keys_file is not None and config.keys_file.exists():
        from serve_app.edge.keys_file import load_keys

        load_keys(config.keys_file)


def bring_up(
    config: ClusterConfig,
    address: str | None,
    *,
    timeout_s: float,
    report: Report,
    progress: Progress,
    delete_others: bool = False,
) -> DeploymentReport:
    """Deploy `config` to the cluster at `address`, else to that of RAY_ADDRESS, else to the one that runs on this
    machine, else to one that is started here; and wait until it runs. `report` hears in sentences what happens, and
    `progress` how far the workers are.

    :raises ConfigurationError: a setting is wrong, or there is no cluster at the address.
    :raises DeployFailed: it does not run; the message says why.
    """
    check(config)
    target = which_cluster(address) or _start_cluster(report)
    with connected(target) as dashboard:
        _require_same_http(config, dashboard.details())

        def look() -> None:
            with suppress(ExlpoolError, RayError):  # nothing is there yet, or it is on its way back
                progress(read_report(dashboard.details(), config.name))

        deploy(
            serve_document(config),
            dashboard.address,
            timeout_s=timeout_s,
            report=lambda name, status: report(f"{name}: {status}"),
            delete_others=delete_others,
            look=look,
        )
        return read_report(dashboard.details(), config.name)


def look_at(name: str, address: str | None) -> DeploymentReport:
    """:raises ConfigurationError: no cluster runs, or no such application on it."""
    with connected(_require_cluster(address)) as dashboard:
        return read_report(dashboard.details(), name)


def take_down(name: str, address: str | None, *, timeout_s: float, report: Report) -> None:
    """End an application and its pools, when its requests have ended; and then the cluster, if `bring_up` has started
    that on this machine.

    :raises ConfigurationError: no cluster runs, or no such application on it.
    :raises ClusterSilent: it takes longer than `timeout_s`.
    """
    target = _require_cluster(address)
    own = own_cluster.remembered()
    if own is None or own.address != target:
        _end(name, target, timeout_s, report)
        return
    left: set[str] = set()
    try:
        left = set(Dashboard(own.dashboard).applications())
        if name in left:
            _end(name, target, timeout_s, report)
    except (ExlpoolError, RayError) as error:
        report(f"The cluster does not answer as it should, and is ended: {error}")
    if left - {name}:
        report(f"The Ray cluster goes on, since it runs {', '.join(sorted(left - {name}))} too.")
    else:
        own_cluster.end(own)
        report("The Ray cluster that `exlpool up` started here has ended.")


def _end(name: str, target: str, timeout_s: float, report: Report) -> None:
    with connected(target) as dashboard:
        read_report(dashboard.details(), name)  # refuses what is not there
        report(f"{name} ends when its requests have ended.")
        end_application(name, timeout_s=timeout_s)
        report(f"{name} and its pools have ended.")


def which_cluster(address: str | None) -> str | None:
    """The HOST:PORT of the cluster that is meant: at `address`, of RAY_ADDRESS, the one that `bring_up` has started
    here, or the one that `ray start` has; None: there is none. A script's own cluster is never meant."""
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted and wanted != "auto":
        return wanted
    own = own_cluster.remembered()
    return own.address if own is not None else _started_here()


def _require_cluster(address: str | None) -> str:
    target = which_cluster(address)
    if target is None:
        raise ConfigurationError(
            "No Ray cluster runs on this machine: start one with `exlpool up`, or give its --address.", param="address"
        )
    return target


@contextmanager
def connected(target: str) -> Iterator[Dashboard]:
    """This process in a cluster, with its dashboard.

    :raises ConfigurationError: it does not answer, or has no dashboard.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    owns_ray = ensure_ray(target, quiet=True)
    try:
        own = own_cluster.remembered()
        yield Dashboard(own.dashboard if own is not None and own.address == target else dashboard_of(target))
    finally:
        if owns_ray:
            ray.shutdown()


def _start_cluster(report: Report) -> str:
    def began(cluster: OwnCluster) -> None:
        report(f"No Ray cluster runs here: starting one at {cluster.address}, to be ended with `exlpool down`.")

    return own_cluster.start(began).address


def _started_here() -> str | None:
    """What the last `ray start` on this machine has written down, if that still runs."""
    from ray._private.utils import read_ray_address  # no public part of Ray has it

    found = read_ray_address()
    host, _, port = (found or "").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, ValueError):
        return None
    return found


def _require_same_http(config: ClusterConfig, details: Mapping[str, Any]) -> None:
    """:raises ConfigurationError: Serve listens already, elsewhere than `config` says, which it would ignore."""
    options = details.get("http_options")
    if not details.get("proxies") or not options:
        return
    runs = (options.get("host"), options.get("port"), details.get("proxy_location"))
    wanted = (config.http.host, config.http.port, config.http.proxy_location)
    if runs != wanted:
        raise ConfigurationError(
            "http cannot change while Ray Serve runs, which listens on {} port {} ({}): `exlpool down` first.".format(
                *runs
            ),
            param="http",
        )
