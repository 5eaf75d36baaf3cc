"""A byte-level tokenizer with 512 tokens, as the files of a model directory without weights."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<unk>", "<s>", "</s>")


def write_model_dir(directory: Path, *, vocab_size: int = 512, eos_token_ids: tuple[int, ...] = (2,)) -> Path:
    """Write tokenizer.json, config.json and generation_config.json; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer(vocab_size).save(str(directory / "tokenizer.json"))
    config = {"architectures": ["LlamaForCausalLM"], "eos_token_id": eos_token_ids[0], "vocab_size": vocab_size}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": list(eos_token_ids)}))
    return directory


def tokenizer(vocab_size: int = 512) -> Tokenizer:
    """Every byte, and pairs of small letters until the vocabulary is full."""
    vocabulary = {token: place for place, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    merges: list[tuple[str, str]] = []
    letters = "abcdefghijklmnopqrstuvwxyz"
    for first in letters:
        for second in letters:
            if len(vocabulary) < vocab_size:
                merges.append((first, second))
                vocabulary[first + second] = len(vocabulary)
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return made
