"""What a model directory holds, found out from its small files and headers: no torch, no weights read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from actors.engines.tensor_files import TensorFiles, read_tensor_files
from actors.errors import ModelError


class WeightKind(StrEnum):
    EXL2 = "exl2"
    GPTQ = "gptq"
    EXL3 = "exl3"
    UNQUANTISED = "unquantised"


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A whole model in Hugging Face form.

    `dtype` is the type that most of the floating-point weights have ("float16", "bfloat16", "float32"), `weight_bytes`
    what the weights take on disk, and about what they take in memory.
    """

    path: Path
    architecture: str
    kind: WeightKind
    dtype: str
    weight_bytes: int


_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_SMALL_FLOAT = re.compile(r"F[468](_\w+)?")
"""Floats of 4 to 8 bits, which come with scales beside them ("F8_E4M3", "F4"); F64 is a plain one."""
_KIND_OF_METHOD = {"exl2": WeightKind.EXL2, "gptq": WeightKind.GPTQ, "exl3": WeightKind.EXL3}
_KIND_OF_SUFFIX = {"q_weight": WeightKind.EXL2, "trellis": WeightKind.EXL3}


def inspect_model_dir(path: Path) -> ModelDirectory:
    """Look a model directory over.

    :raises ModelError: it is missing, incomplete or damaged, or its weights are of a kind that no engine here reads.
    """
    if not path.exists():
        raise ModelError(f"There is no model directory {path}.")
    if not path.is_dir():
        raise ModelError(f"{path} is a file: `model` names the directory that holds config.json and the weights.")
    config = read_model_config(path)
    _require_tokenizer(path)
    files = read_tensor_files(path)
    kind = _weight_kind(path, config, files)
    return ModelDirectory(path, _architecture(path, config), kind, _dtype(path, files), files.total_bytes)


def read_model_config(path: Path) -> dict[str, Any]:
    """The directory's config.json.

    :raises ModelError: it is missing, or not a JSON object.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} has no config.json: `model` names the directory of one model.") from None
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from None
    except ValueError:
        raise ModelError(f"{file} is not valid JSON: fetch it again.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file} does not hold a JSON object: fetch it again.")
    return config


def _require_tokenizer(path: Path) -> None:
    if (path / "tokenizer.json").is_file():
        return
    if (path / "tokenizer.model").is_file():
        raise ModelError(
            f"{path} has a SentencePiece tokenizer.model but no tokenizer.json: make one with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    raise ModelError(f"{path} has no tokenizer.json: the download is incomplete, fetch the model again.")


def _architecture(path: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ModelError(f"{path / 'config.json'} must name exactly one model class under `architectures`.")
    return names[0]


def _weight_kind(path: Path, config: dict[str, Any], files: TensorFiles) -> WeightKind:
    """The tensors' names decide where they can, since old EXL2 directories say nothing in config.json."""
    for suffix, kind in _KIND_OF_SUFFIX.items():
        if suffix in files.suffixes:
            return kind
    settings = config.get("quantization_config")
    if isinstance(settings, dict):
        method = str(settings.get("quant_method", "unknown"))
    elif "qweight" in files.suffixes:
        method = "gptq" if (path / "quantize_config.json").is_file() else "unknown"
    elif any(map(_SMALL_FLOAT.fullmatch, files.bytes_of_dtype)):
        method = "fp8"
    else:
        return WeightKind.UNQUANTISED
    if method == "gptq":
        _require_four_bits(path, settings if isinstance(settings, dict) else _quantize_config(path))
    if method not in _KIND_OF_METHOD:
        raise ModelError(
            f"{path} is quantised with {method!r}, which no engine here reads: "
            "use EXL2, 4-bit GPTQ or unquantised weights."
        )
    return _KIND_OF_METHOD[method]


def _quantize_config(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads((path / "quantize_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise ModelError(f"{path / 'quantize_config.json'} is damaged: fetch it again.")
    return settings


def _require_four_bits(path: Path, settings: dict[str, Any]) -> None:
    """ExLlamaV2's GPTQ kernels exist for 4 bits only (exllamav2_ext/cuda/q_matrix.cu, 0.3.2)."""
    bits = settings.get("bits", 4)
    if bits != 4:
        raise ModelError(f"{path} is a {bits}-bit GPTQ model: only 4-bit ones are supported, use EXL2 instead.")


def _dtype(path: Path, files: TensorFiles) -> str:
    sizes = {name: size for name, size in files.bytes_of_dtype.items() if name in _DTYPES}
    if not sizes:
        found = ", ".join(sorted(files.bytes_of_dtype)) or "none"
        raise ModelError(f"{path} holds no weights of type F16, BF16 or F32 (found: {found}).")
    return _DTYPES[max(sizes, key=lambda name: sizes[name])]
