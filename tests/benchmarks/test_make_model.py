"""The made model is valid EXL2: what its bits mean is what was meant."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from actors.engines.model_dir import WeightKind, inspect_model_dir
from tests.benchmarks.make_model import GROUP_ROWS, Shape, group_bits, make_model

SHAPE = Shape(
    hidden_size=1024,
    intermediate_size=2048,
    layers=2,
    heads=8,
    kv_heads=2,
    head_dim=128,
    vocab_size=2048,
    context_tokens=2048,
)


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows of integers out of the words of one group, lowest bits first."""
    columns = []
    for column in words.T.tolist():
        stream = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(column))
        columns.append([(stream >> (bits * row)) & (2**bits - 1) for row in range(GROUP_ROWS)])
    return torch.tensor(columns, dtype=torch.float).T


def test_weights_have_the_deviation_that_was_asked_for(tmp_path: Path) -> None:
    make_model(tmp_path, SHAPE)
    tensors = load_file(tmp_path / "model-00002-of-00003.safetensors")
    key = "model.layers.0.self_attn.q_proj"
    groups = tensors[f"{key}.q_groups"].view(-1, 2).tolist()
    assert [bits for bits, _ in groups] == group_bits(1024, 0)
    ends = [*(start for _, start in groups[1:]), len(tensors[f"{key}.q_weight"])]
    for group, ((bits, start), end) in enumerate(zip(groups, ends, strict=True)):
        assert end - start == GROUP_ROWS * bits // 32
        words = tensors[f"{key}.q_weight"][start:end, :16]
        scales = tensors[f"{key}.q_scale"][group, :2].tolist()
        steps = torch.tensor([((scale & 0xFFFFFFFF) >> (4 * place)) & 15 for scale in scales for place in range(8)])
        values = (unpacked(words, bits) - 2 ** (bits - 1)) * (steps + 1) ** 2 / 256
        deviation = float((values * float(tensors[f"{key}.q_scale_max"][group])).std())
        assert 0.5 / 32 < deviation < 2.0 / 32  # 1/sqrt(1024), from 16 columns
    permutation = tensors[f"{key}.q_invperm"]
    assert torch.equal(permutation.sort().values, torch.arange(1024, dtype=torch.int32))


def test_two_layers_have_four_bits_per_weight(tmp_path: Path) -> None:
    make_model(tmp_path, SHAPE)
    words = weights = 0
    for layer in range(2):
        tensors = load_file(tmp_path / f"model-{layer + 2:05d}-of-00003.safetensors")
        words += sum(tensor.numel() for key, tensor in tensors.items() if key.endswith(".q_weight"))
        weights += sum(rows * columns for _, rows, columns in SHAPE.matrices(layer))
    assert words * 32 / weights == 4.0


def test_the_directory_is_taken_for_a_whole_exl2_model(tmp_path: Path) -> None:
    make_model(tmp_path, SHAPE)
    assert inspect_model_dir(tmp_path).kind is WeightKind.EXL2
