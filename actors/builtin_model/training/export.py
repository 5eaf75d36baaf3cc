"""Writes the model directory in the form that transformers 4.57 and 5, and ExLlamaV2, all read."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from actors.builtin_model.training.network import HEAD_SIZE, NORM_EPSILON, ROPE_THETA, Network, Shape
from actors.builtin_model.training.tokenizer import (
    BOS,
    BOS_ID,
    CHAT_TEMPLATE,
    CONTEXT_LENGTH,
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    SPECIAL_TOKENS,
)

READABLE_BY_ALL = 0o644


def model_config(shape: Shape) -> dict[str, Any]:
    """The content of config.json.

    `rope_theta` and `torch_dtype` stand at the top level, where transformers 4 and ExLlamaV2 look for them;
    transformers 5 still reads them there.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.key_value_heads,
        "pad_token_id": PAD_ID,
        "pretraining_tp": 1,
        "rms_norm_eps": NORM_EPSILON,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def tokenizer_config() -> dict[str, Any]:
    """The content of tokenizer_config.json, with the tokenizer class that both major versions know."""
    return {
        "additional_special_tokens": SPECIAL_TOKENS[3:],
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": CONTEXT_LENGTH,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def export_model(network: Network, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes every file that a model loader reads; other files in `directory` stay as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(network.llama_state(), directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    write_json(directory / "config.json", model_config(network.shape))
    write_json(directory / "tokenizer_config.json", tokenizer_config())
    special_ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    write_json(directory / "generation_config.json", special_ids)
    for path in directory.iterdir():
        path.chmod(READABLE_BY_ALL)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` with a stable layout."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
