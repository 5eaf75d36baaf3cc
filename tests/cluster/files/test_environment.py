"""What `ray start` finds in its environment on a cluster of one's own is what exlpool's private clusters have."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module

import pytest
import yaml

from actors.ray_session import PRIVATE_CLUSTER, QUICK_NEWS
from serve_app.edge.proxy import CALLBACK
from tests.cluster.files.deployment_files import FILES, RAY_UP, pods, rayservice

OF_PRIVATE_CLUSTERS_ONLY = {
    "RAY_USAGE_STATS_ENABLED",  # an administrator's own choice
    "RAY_gcs_rpc_server_connect_timeout_s",  # nodes of a real cluster may wait for their head
}
OF_THE_HEAD = {"RAY_health_check_period_ms"}
HEAD = {name: value for name, value in PRIVATE_CLUSTER.items() if name not in OF_PRIVATE_CLUSTERS_ONLY}
WORKER = {name: value for name, value in HEAD.items() if name not in OF_THE_HEAD}
PROXY = {CALLBACK: "serve_app.edge.proxy:middlewares"}
OLD_AUTOSCALER = {"RAY_enable_autoscaler_v2": "0"}
"""Seen with Ray 2.60: the new one never starts the workers of the provider `local`."""
ASSIGNMENT = re.compile(r"(RAY_\w+)=(\S+)")


def test_what_calls_actors_hears_of_deaths_everywhere() -> None:
    assert QUICK_NEWS.items() <= WORKER.items()


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_starts_ray_with_it(name: str) -> None:
    config = yaml.safe_load((FILES / name).read_text())
    for commands, expected in (("head_start_ray_commands", HEAD), ("worker_start_ray_commands", WORKER)):
        (start,) = (command for command in config[commands] if "ray start" in command)
        local_head = config["provider"]["type"] == "local" and expected is HEAD
        own = OLD_AUTOSCALER if local_head else {}
        assert dict(ASSIGNMENT.findall(start)) == {"RAY_AUTH_MODE": "token", **PROXY, **expected, **own}


def test_kuberay_starts_ray_with_it() -> None:
    """The token comes from KubeRay, by `authOptions`."""
    for group, template in pods(rayservice()).items():
        (container,) = template["spec"]["containers"]
        told = {variable["name"]: variable["value"] for variable in container["env"]}
        assert told == PROXY | (HEAD if group == "head" else WORKER)


def test_what_the_proxies_import_is_there() -> None:
    module, _, function = PROXY[CALLBACK].partition(":")
    assert callable(getattr(import_module(module), function))


COMMAND_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@pytest.mark.parametrize("name", RAY_UP)
def test_every_command_is_one_that_bash_reads(name: str) -> None:
    config = yaml.safe_load((FILES / name).read_text())
    for command in (one for commands in COMMAND_LISTS for one in config.get(commands, [])):
        require_bash(command)


def test_the_installation_is_one_that_bash_reads() -> None:
    script = FILES / "install.sh"
    assert script.stat().st_mode & 0o111, "it is called by its name"
    require_bash(script.read_text())


@pytest.mark.parametrize("name", [*RAY_UP, "rayservice.yaml", "compose.yaml", "Dockerfile", "serve.yaml"])
def test_the_commands_in_the_comments_are_ones_that_bash_reads(name: str) -> None:
    """They stand three spaces in, as what a reader copies."""
    lines = [line.removeprefix("#   ") for line in (FILES / name).read_text().splitlines() if line.startswith("#   ")]
    require_bash("\n".join(line for line in lines if not line.startswith("and ")))


def require_bash(text: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
