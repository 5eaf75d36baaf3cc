"""The version, where exlpool is installed and where it is not."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from actors.version import UNKNOWN, _checkout_version, package_version

CHECKOUT = Path(__file__).resolve().parents[1]
HIDDEN = """
import importlib.metadata
assert not list(importlib.metadata.distributions(name="exlpool"))
"""
ASK_API = """
from serve_app.api.app import create_api
from serve_app.models.served import Models, ServedModel
print(create_api(Models([ServedModel("m", None, created=1)])).version)
"""
ASK_COMMAND = "import sys; sys.argv = ['exlpool', 'version']; from cluster.cli import main; main()"


def test_it_is_that_of_the_installed_package() -> None:
    assert package_version() == importlib.metadata.version("exlpool")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is installed here, but not exlpool."""
    folder = tmp_path_factory.mktemp("installed")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "exlpool" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as it was cloned: without what its installation may have left in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("actors", "serve_app", "cluster", "pyproject.toml"):
        (folder / name).symlink_to(CHECKOUT / name)
    return folder


@pytest.mark.parametrize("code", [ASK_API, ASK_COMMAND])
def test_a_checkout_on_the_path_knows_its_version(code: str, checkout: Path, others: Path) -> None:
    """Without `site`, so that nothing but the checkout and the other packages is found."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", HIDDEN + code],
        env={**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{others}"},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=others,
    )
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert done.stdout.strip() == project["version"]


@pytest.mark.parametrize("text", [None, "", "no toml", "[project]\nname = 'another'\nversion = '7'", "project = 5"])
def test_somebody_elses_project_file_says_nothing(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    if text is not None:
        file.write_text(text)
    assert _checkout_version(file) == UNKNOWN
