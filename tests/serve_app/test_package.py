"""What `serve run serve_app:app` and `serve run serve_app:build_app` find, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ray.serve import Application

import serve_app
from actors.errors import ConfigurationError
from serve_app.config import ServeConfig


def test_the_application_is_bound_and_the_builder_is_typed() -> None:
    assert isinstance(serve_app.app, Application)
    assert serve_app.build_app.__annotations__["args"] is ServeConfig, "Serve validates by the annotation itself"
    assert isinstance(serve_app.build_app(ServeConfig()), Application)


def test_keys_that_are_wrong_are_told_when_the_application_is_built(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text("- nonsense")
    with pytest.raises(ConfigurationError, match="keys"):
        serve_app.build_app(ServeConfig(keys_file=file))


def test_importing_the_package_loads_neither_ray_nor_fastapi() -> None:
    code = "import serve_app, sys; print(sorted({'ray', 'fastapi', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError):
        _ = serve_app.no_such_name
