"""All facts of the machine that this runs on. Sent to nodes by value: see the package."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import socket
import tomllib
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from actors.engines.model_dir import inspect_model_dir, read_model_config
from actors.errors import ModelError
from cluster.doctor.facts import Machine, Model, Question
from cluster.doctor.nvml import read_nvidia
from cluster.doctor.system import read_system
from cluster.doctor.trial import try_libraries

SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
"""What config.json says of a model that its memory depends on."""


def gather(question: Question) -> Machine:
    """Look this machine over. Takes as long as importing torch, and at most about the question's `timeout_s`."""
    nvidia = read_nvidia()
    libraries = try_libraries(question, gpu=question.try_gpu or nvidia.hardware > 0)
    return Machine(
        host=socket.gethostname(),
        python=platform.python_version(),
        ray=_installed("ray"),
        exlpool=_exlpool_version(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        nvidia=nvidia,
        libraries=libraries,
        models=tuple(read_model(Path(path)) for path in question.models),
        system=read_system(question.variables),  # last, since it tells the time
    )


def gather_as_json(question: dict[str, Any]) -> str:
    """`gather`, in what every machine can read. The question comes as a dict of its fields."""
    return json.dumps(asdict(gather(Question(**question))))


def read_model(path: Path) -> Model:
    try:
        found = inspect_model_dir(path)
        config = read_model_config(path)
    except ModelError as error:
        return Model(str(path), error=error.message)
    inner = config.get("text_config")  # models that also see
    text = {**config, **inner} if isinstance(inner, dict) else config
    sizes = {name: text[name] if isinstance(text.get(name), int) else None for name in SIZES}
    return Model(str(path), None, str(found.kind), found.architecture, found.weight_bytes, sizes)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _exlpool_version() -> str | None:
    """Of the package, or of a checkout on the path; found without importing it."""
    told = _installed("exlpool")
    if told is not None:
        return told
    try:
        spec = importlib.util.find_spec("actors")
        if spec is None or spec.origin is None:
            return None
        project = tomllib.loads((Path(spec.origin).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"]) if project["project"]["name"] == "exlpool" else None
    except (ImportError, OSError, ValueError, KeyError):
        return None
