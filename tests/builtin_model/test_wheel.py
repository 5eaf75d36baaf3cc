"""The wheel holds what runs: the model's files, and neither its training nor the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from actors.builtin_model import builtin_model_path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "serve_app", "cluster")
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
BUILD_TIMEOUT_S = 120.0
ASK = """
import sys
from actors.builtin_model import builtin_model_path
print(builtin_model_path())
assert not [name for name in sys.modules if name.startswith("actors.builtin_model.")]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clean copy: setuptools also packs what an earlier build left in `build/`."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-c", BUILD, str(made)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
    (built,) = made.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_it_holds_every_package_but_the_models_training(files: set[PurePosixPath]) -> None:
    expected = {
        path.parent.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")
    }
    expected.remove("actors/builtin_model/training")
    assert {path.parent.as_posix() for path in files if path.name == "__init__.py"} == expected
    assert not [path for path in files if "training" in path.parts or "tests" in path.parts]


def test_it_holds_the_model(files: set[PurePosixPath]) -> None:
    inside = {path.name for path in files if path.parent == PurePosixPath("actors/builtin_model/model")}
    assert inside == {path.name for path in builtin_model_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= inside


def test_it_holds_the_files_for_clusters(files: set[PurePosixPath]) -> None:
    inside = {path.name for path in files if path.parent == PurePosixPath("cluster") and path.suffix != ".py"}
    assert inside == {path.name for path in (ROOT / "cluster").glob("*.yaml")} | {"grafana.json"}


def test_the_model_is_found_without_its_training(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-c", ASK]
    environment = {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert Path(told.stdout.strip()) == tmp_path / "actors" / "builtin_model" / "model"
