"""The tokens that end a completion, as a model directory names them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.engines.model_dir import read_model_config
from actors.errors import ModelError

logger = logging.getLogger(__name__)


def read_eos_token_ids(path: Path, vocab_size: int) -> tuple[int, ...]:
    """All of them: generation_config.json's, then config.json's.

    Those that are no token of the model's `vocab_size` logits can never be chosen, and whoever looked their logits up
    would fail: they are left out, and the log says so.

    :raises ModelError: a file is damaged.
    """
    usable: list[int] = []
    others: list[str] = []
    for value in _named(path):
        if type(value) is not int or not 0 <= value < vocab_size:
            others.append(repr(value))
        elif value not in usable:
            usable.append(value)
    if others:
        logger.warning(
            "%s: eos_token_id %s is ignored, since the model has tokens 0 to %d. Completions end at %s.",
            path,
            ", ".join(dict.fromkeys(others)),
            vocab_size - 1,
            ", ".join(map(str, usable)) or "their length alone",
        )
    return tuple(usable)


def _named(path: Path) -> Iterator[object]:
    config = read_model_config(path)
    text_config = config.get("text_config")
    for source in (_generation_config(path), config, text_config if isinstance(text_config, dict) else {}):
        value = source.get("eos_token_id")
        if value is not None:
            yield from value if isinstance(value, list) else [value]


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({error}): fetch it again.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{file} does not hold a JSON object: fetch it again.")
    return values
