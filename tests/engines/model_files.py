"""Directories that look like models to whoever reads only headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HALF, WORDS = torch.zeros(8, dtype=torch.float16), torch.zeros(8, dtype=torch.int32)
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def write_model(path: Path, config: Any = CONFIG, **tensors: torch.Tensor) -> Path:
    """A directory that looks like a model: its weights are `tensors`, or one of float16."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(named or {"model.norm.weight": torch.zeros(8, dtype=torch.float16)}, path / "model.safetensors")
    return path
