"""`compose.yaml` by Compose's own rules, and its commands by exlpool's."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from compose_spec import PyOptions

from cluster.cli.app import app
from serve_app.config import serve_config
from tests.cluster.files.deployment_files import FILES, replaced

TEXT = (FILES / "compose.yaml").read_text()
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def parsed(text: str) -> dict[str, Any]:
    """The services, as on a machine where no variable is set.

    :raises ValueError: Compose would refuse it.
    """
    options = PyOptions(apply_merge=True)
    compose = options.from_yaml(VARIABLE.sub(r"\2", text))
    compose.validate()
    services: dict[str, Any] = compose.to_dict()["services"]
    return services


def test_compose_takes_it() -> None:
    assert set(parsed(TEXT)) == {"gpu", "cpu"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("\nservices:", "\nservice:", "service"),
        ("shm_size:", "shm_sise:", "shm_sise"),
        ("security_opt:", "security_opts:", "security_opts"),
        ("capabilities: [gpu]", "capability: [gpu]", "capabilities"),
        ("    deploy:", "    deployment:", "deployment"),
        ('- "127.0.0.1:${EXLPOOL_PORT:-8000}:8000"', "- {publish: 8000, target: 8000}", "publish"),
        ("target: /models, read_only", "target: /models, readonly", "readonly"),
        ("profiles: [cpu]", "profile: [cpu]", "profile"),
    ],
)
def test_a_slip_of_the_pen_is_refused(old: str, new: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parsed(replaced(TEXT, old, new))


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_only_this_machine_reaches_it(name: str) -> None:
    (port,) = parsed(TEXT)[name]["ports"]
    assert str(port).startswith("127.0.0.1:"), port


@pytest.mark.parametrize(("name", "model"), [("gpu", "/models/"), ("cpu", "None")])
def test_its_command_is_one_of_exlpool(name: str, model: str) -> None:
    program, verb, *options = parsed(TEXT)[name]["command"]
    assert (program, verb) == ("exlpool", "serve")
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = command.make_context(verb, list(options)).params
    assert given["host"] == "0.0.0.0", "a container's loopback is nobody's"
    assert str(given["keys_file"]) == "/etc/exlpool/keys.yaml"
    assert str(given["model"]).startswith(model)
    serve_config(model=given["model"], workers=given["workers"] or 1, keys_file=given["keys_file"])


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_what_it_reads_is_mounted_read_only(name: str) -> None:
    service = parsed(TEXT)[name]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert set(mounts) == ({"/etc/exlpool", "/models"} if name == "gpu" else {"/etc/exlpool"})
    assert all(mount["read_only"] is True for mount in mounts.values())
    assert not (FILES / mounts["/etc/exlpool"]["source"]).is_file(), "a file would stay the old one"


def test_a_gpu_is_asked_for_where_there_is_one() -> None:
    services = parsed(TEXT)
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in services["cpu"]
    assert services["gpu"]["build"]["args"]["VARIANT"] == "gpu"
    assert services["cpu"]["build"]["args"]["VARIANT"] == "cpu"
