"""The files for `ray up`, by the code that `ray up` checks them with before it starts anything."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from click import ClickException
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files.deployment_files import FILES, RAY_UP, ROOT, replaced


def checked(text: str) -> dict[str, Any]:
    """As `ray up` does it, in its order."""
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_takes_it(name: str) -> None:
    config = checked((FILES / name).read_text())
    assert all("--dashboard-host=127.0.0.1" in one for one in config["head_start_ray_commands"] if "--head" in one)


def test_every_machine_of_ones_own_is_a_worker() -> None:
    config = checked((FILES / "ray-onprem.yaml").read_text())
    (node_type,) = config["available_node_types"].values()
    machines = len(config["provider"]["worker_ips"])
    assert (node_type["min_workers"], node_type["max_workers"], config["max_workers"]) == (machines, machines, machines)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("ray-onprem.yaml", "cluster_name:", "clustername:"),
        ("ray-onprem.yaml", "worker_ips: [", "worker_ip: ["),
        ("ray-onprem.yaml", "head_ip:", "head_ips:"),
        ("ray-onprem.yaml", "setup_commands:", "setup_command:"),
        ("ray-onprem.yaml", "ssh_private_key:", "ssh_key:"),
        ("ray-onprem.yaml", "worker_start_ray_commands:", "worker_start_commands:"),
        ("ray-aws.yaml", "head_node_type: head", "head_node_type: haed"),
        ("ray-aws.yaml", "head_node_type:", "head_type:"),
        ("ray-aws.yaml", "    min_workers: 1", "    min_workers: 5"),
        ("ray-aws.yaml", "resources: {CPU: 4, GPU: 1}", "resource: {CPU: 4, GPU: 1}"),
        ("ray-aws.yaml", "idle_timeout_minutes: 15", "idle_timeout_minutes: soon"),
        ("ray-aws.yaml", "upscaling_speed:", "upscaling:"),
    ],
)
def test_a_slip_of_the_pen_is_refused(name: str, old: str, new: str) -> None:
    text = replaced((FILES / name).read_text(), old, new)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError, ClickException)):
        checked(text)


@pytest.mark.parametrize("name", RAY_UP)
def test_what_goes_to_the_nodes_is_there_and_is_all_that_the_installation_needs(name: str) -> None:
    mounts = yaml.safe_load((FILES / name).read_text())["file_mounts"]
    token = "~/.ray/auth_token"
    assert mounts.pop(token) == token, "where Ray looks for it by itself"
    assert mounts == {f"~/exlpool-source/{local}": local for local in mounts.values()}
    assert all((ROOT / local).exists() for local in mounts.values())
    needed = {"actors", "serve_app", "cluster", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert set(mounts.values()) == needed
