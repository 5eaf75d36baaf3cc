"""Makes an EXL2 model of real size out of random bits, without a download, in well under a minute on a GPU.

    python -m tests.benchmarks.make_model DIR                 # the shape of Llama 3.1 8B, 4.0 bits per weight
    python -m tests.benchmarks.make_model DIR --layers 2      # the same, shallow

It says nothing, but costs what a real model costs: same kernels, same memory traffic, same vocabulary of 128,256. Any
bits are valid EXL2 weights; scales are chosen so that hidden states stay of order one and logits spread by
`LOGIT_SPREAD`, which gives distributions with a few nats of entropy, as a language model's have.

The format is that of exllamav2 0.3.2 (conversion/adaptivegptq.py, `pack`; ext.py, `make_q_matrix`): a matrix is made
of groups of rows that share bits and scales, higher bits first, rows permuted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

GROUP_ROWS = 128
HEAD_BITS = 6
SCALE_BITS = 4
LOGIT_SPREAD = 4.0
SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>")
_RESERVED_TOKENS = 254

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The defaults are those of Llama 3.1 8B."""

    hidden_size: int = 4096
    intermediate_size: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 128256
    context_tokens: int = 131072

    def matrices(self, layer: int) -> Iterator[tuple[str, int, int]]:
        """Name, input and output size of every matrix of a layer."""
        key = f"model.layers.{layer}"
        yield f"{key}.self_attn.q_proj", self.hidden_size, self.heads * self.head_dim
        yield f"{key}.self_attn.k_proj", self.hidden_size, self.kv_heads * self.head_dim
        yield f"{key}.self_attn.v_proj", self.hidden_size, self.kv_heads * self.head_dim
        yield f"{key}.self_attn.o_proj", self.heads * self.head_dim, self.hidden_size
        yield f"{key}.mlp.gate_proj", self.hidden_size, self.intermediate_size
        yield f"{key}.mlp.up_proj", self.hidden_size, self.intermediate_size
        yield f"{key}.mlp.down_proj", self.intermediate_size, self.hidden_size


def group_bits(rows: int, layer: int) -> list[int]:
    """Bits of each group of rows, highest first: 4, with an eighth of 5 in even layers and of 3 in odd ones, since
    real models mix them too. Over two layers that is 4.0 bits per weight, scales aside."""
    groups = rows // GROUP_ROWS
    others = groups // 8
    return [5] * others + [4] * (groups - others) if layer % 2 == 0 else [4] * (groups - others) + [3] * others


def random_matrix(
    key: str, rows: int, columns: int, bits: list[int], deviation: float, generator: torch.Generator
) -> Tensors:
    """The tensors of one matrix whose weights have about the standard deviation `deviation`."""
    device = generator.device
    starts, packed_rows = [], 0
    for width in bits:
        starts.append(packed_rows)
        packed_rows += GROUP_ROWS * width // 32
    # A weight is (q - 2^(bits-1)) x (s + 1)^2 / 256 x scale_max, with q and the 4-bit s uniform here.
    squares = math.sqrt(sum(((s + 1) / 16) ** 4 for s in range(16)) / 16)
    scale_max = torch.tensor([deviation / (2**width / math.sqrt(12) * squares) for width in bits], device=device)
    groups = torch.tensor([value for pair in zip(bits, starts, strict=True) for value in pair], dtype=torch.short)
    return {
        f"{key}.q_weight": _random_words((packed_rows, columns), generator),
        f"{key}.q_scale": _random_words((len(bits), columns * SCALE_BITS // 32), generator),
        f"{key}.q_scale_max": scale_max.half(),
        f"{key}.q_groups": groups,
        f"{key}.q_invperm": torch.randperm(rows, generator=generator, device=device).to(torch.int32),
    }


def _random_words(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    words = torch.empty(shape, dtype=torch.int32, device=generator.device)
    return words.random_(-(2**31), 2**31 - 1, generator=generator)


def layer_tensors(shape: Shape, layer: int, generator: torch.Generator) -> Tensors:
    tensors: Tensors = {}
    for key, rows, columns in shape.matrices(layer):
        tensors |= random_matrix(key, rows, columns, group_bits(rows, layer), 1.0 / math.sqrt(rows), generator)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"model.layers.{layer}.{norm}.weight"] = torch.ones(shape.hidden_size, dtype=torch.half)
    return tensors


def outer_tensors(shape: Shape, generator: torch.Generator) -> Tensors:
    """Embedding, last norm and head."""
    embedding = torch.randn(
        (shape.vocab_size, shape.hidden_size), generator=generator, device=generator.device, dtype=torch.half
    )
    bits = [HEAD_BITS] * (shape.hidden_size // GROUP_ROWS)
    deviation = LOGIT_SPREAD / math.sqrt(shape.hidden_size)
    return {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": torch.ones(shape.hidden_size, dtype=torch.half),
        **random_matrix("lm_head", shape.hidden_size, shape.vocab_size, bits, deviation, generator),
    }


def model_config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": shape.vocab_size - _RESERVED_TOKENS - 2,
        "eos_token_id": shape.vocab_size - _RESERVED_TOKENS - 1,
        "quantization_config": {"quant_method": "exl2", "version": "0.3.2", "bits": 4.0, "head_bits": HEAD_BITS},
    }


def tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE: all bytes, then strings of two and of four small letters until the vocabulary is full."""
    vocabulary = {token: place for place, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    wanted = vocab_size - len(SPECIAL_TOKENS) - _RESERVED_TOKENS
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [first + second for first in letters for second in letters]
    longer = ((first, second) for first in pairs for second in pairs)
    for left, right in (*((pair[0], pair[1]) for pair in pairs), *longer):
        if len(vocabulary) >= wanted:
            break
        merges.append((left, right))
        vocabulary[left + right] = len(vocabulary)
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*SPECIAL_TOKENS, *(f"<|reserved_{number}|>" for number in range(_RESERVED_TOKENS))])
    return made


def make_model(directory: Path, shape: Shape, seed: int = 0) -> None:
    """Write the whole model directory; what is there of an older one is overwritten."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)
    files = shape.layers + 1
    for number in range(files):
        tensors = outer_tensors(shape, generator) if number == 0 else layer_tensors(shape, number - 1, generator)
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, directory / name)
    (directory / "config.json").write_text(json.dumps(model_config(shape), indent=2), encoding="utf-8")
    tokenizer(shape.vocab_size).save(str(directory / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=Shape().layers)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start_s = time.perf_counter()
    make_model(options.directory, Shape(layers=options.layers), options.seed)
    size = sum(file.stat().st_size for file in options.directory.iterdir())
    print(f"{options.directory}: {size / 2**30:.2f} GiB in {time.perf_counter() - start_s:.1f} s")


if __name__ == "__main__":
    main()
