"""Rotary position settings of a model, where the library would read them wrongly or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.config import Exllamav2Options
from actors.errors import ModelError

_DEFAULT = "default"


def read_rope_parameters(config: dict[str, Any], path: Path) -> tuple[float, dict[str, Any]] | None:
    """The base and the scaling out of `rope_parameters`, which transformers 5 writes and the library does not read.

    None where the older keys are there, which the library reads itself.
    :raises ModelError: the parameters are of a kind that cannot be carried over.
    """
    if "rope_theta" in config:
        return None
    nested = config.get("text_config")
    if isinstance(nested, dict) and "rope_theta" not in nested and nested.get("rope_parameters"):
        raise ModelError(_told(path, "stand under text_config"))
    parameters = config.get("rope_parameters")
    if not parameters:
        return None
    if not isinstance(parameters, dict) or not isinstance(parameters.get("rope_theta"), int | float):
        raise ModelError(_told(path, "have no rope_theta, or one per kind of layer"))
    kind = parameters.get("rope_type", _DEFAULT)
    if kind not in {_DEFAULT, *_SCALINGS}:
        raise ModelError(_told(path, f"are of type {kind!r}"))
    return float(parameters["rope_theta"]), {} if kind == _DEFAULT else dict(parameters)


def _told(path: Path, what: str) -> str:
    return (
        f"The rope_parameters in {path / 'config.json'} {what}, which ExLlamaV2 does not read: "
        "write rope_theta and rope_scaling instead, as transformers 4 did."
    )


def apply_rope(library_config: Any, raw: dict[str, Any], path: Path, options: Exllamav2Options) -> None:
    """Set base and scaling on the library's configuration: the model's own, then those that the user asks for.

    :raises ModelError: as `read_rope_parameters`, or a scaling lacks a value.
    """
    found = read_rope_parameters(raw, path)
    if found is not None:
        library_config.rotary_embedding_base, scaling = found
        if scaling:
            try:
                _SCALINGS[scaling["rope_type"]](library_config, scaling)
            except KeyError as missing:
                raise ModelError(_told(path, f"lack {missing}")) from None
    if options.rope_scale is not None:
        library_config.scale_pos_emb = options.rope_scale
    if options.rope_alpha is not None:
        library_config.scale_alpha_value = options.rope_alpha


def _linear(library_config: Any, scaling: dict[str, Any]) -> None:
    library_config.scale_pos_emb = scaling["factor"]


def _yarn(library_config: Any, scaling: dict[str, Any]) -> None:
    library_config.alt_rope_method = "yarn"
    library_config.yarn_rope_factor = scaling["factor"]
    library_config.yarn_rope_original_max_position_embeddings = scaling["original_max_position_embeddings"]


def _llama3(library_config: Any, scaling: dict[str, Any]) -> None:
    library_config.alt_rope_method = "llama3"
    library_config.l3_rope_factor = scaling["factor"]
    library_config.l3_rope_low_freq_factor = scaling["low_freq_factor"]
    library_config.l3_rope_high_freq_factor = scaling["high_freq_factor"]
    library_config.l3_rope_original_max_position_embeddings = scaling["original_max_position_embeddings"]


_SCALINGS = {"linear": _linear, "yarn": _yarn, "llama3": _llama3}
"""The kinds that `ExLlamaV2Config.prepare` reads from `rope_scaling` and that need nothing else (0.3.2)."""
