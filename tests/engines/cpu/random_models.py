"""Model directories of many kinds, small, with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from actors.builtin_model import builtin_model_path

SMALL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def write_random_model(path: Path, kind: str, settings: dict[str, Any], seed: int = 0) -> None:
    """Write a model of the configuration class `kind`, with SMALL and `settings`."""
    torch.manual_seed(seed)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = getattr(transformers, kind)(**SMALL | settings)
    family: Any = transformers.AutoModelForSeq2SeqLM if kind == "T5Config" else transformers.AutoModelForCausalLM
    model = family.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 3.0  # so that attention prefers some tokens clearly, and so do the logits
    model.save_pretrained(path)
    shutil.copy(builtin_model_path() / "tokenizer.json", path)
