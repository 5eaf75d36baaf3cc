"""The Llama network in the form that trains fastest on a CPU.

The shapes and the order of the operations are those of `LlamaForCausalLM`; `llama_state` gives the weights under
its names. Matrix products run in bfloat16, everything else in float32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_SIZE = 64
ROPE_THETA = 10000.0
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """The dimensions of the network, all multiples of 128 so that every kernel and quantizer takes them."""

    vocabulary: int = 2048
    hidden: int = 256
    intermediate: int = 512
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    context: int = 4096


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight.to(torch.bfloat16))


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x[..., : HEAD_SIZE // 2], x[..., HEAD_SIZE // 2 :]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class Block(nn.Module):
    """Attention and the gated feed-forward layer, each with its norm before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, inner = shape.hidden, shape.intermediate
        self.q_proj = nn.Linear(hidden, shape.heads * HEAD_SIZE, bias=False)
        self.k_proj = nn.Linear(hidden, shape.key_value_heads * HEAD_SIZE, bias=False)
        self.v_proj = nn.Linear(hidden, shape.key_value_heads * HEAD_SIZE, bias=False)
        self.o_proj = nn.Linear(shape.heads * HEAD_SIZE, hidden, bias=False)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor | None) -> Tensor:
        """The next hidden states; without a `mask` every token sees all tokens before it."""
        x = x + self._attend(self._norm(x, self.input_layernorm), cosine, sine, mask).float()
        y = self._norm(x, self.post_attention_layernorm)
        gated = F.silu(_linear(y, self.gate_proj)) * _linear(y, self.up_proj)
        return x + _linear(gated, self.down_proj).float()

    def _attend(self, y: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor | None) -> Tensor:
        rows, length, _ = y.shape
        query, key, value = (
            _linear(y, layer).view(rows, length, -1, HEAD_SIZE).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(
            _rotate(query, cosine, sine),
            _rotate(key, cosine, sine),
            value,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=True,
        )
        return _linear(mixed.transpose(1, 2).reshape(rows, length, -1), self.o_proj)

    @staticmethod
    def _norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, NORM_EPSILON).to(torch.bfloat16)


class Network(nn.Module):
    """The whole network; the embedding also gives the logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        frequencies = ROPE_THETA ** -(torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE)
        angles = torch.arange(shape.context).float()[:, None] * frequencies
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, positions: Tensor, chosen: Tensor, one_text: bool) -> Tensor:
        """Logits of the flattened tokens numbered in `chosen`.

        Where `one_text` is false, a position of 0 starts a new text that does not see the ones before it.
        """
        cosine = self.get_buffer("cosine")[positions][:, None].bfloat16()
        sine = self.get_buffer("sine")[positions][:, None].bfloat16()
        mask = None if one_text else _separation(positions)
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, cosine, sine, mask)
        x = F.rms_norm(x, (x.shape[-1],), self.norm, NORM_EPSILON)
        x = x.reshape(-1, x.shape[-1])[chosen]
        return F.linear(x.bfloat16(), self.embed_tokens.weight.bfloat16()).float()

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices of the layers."""
        return [parameter for parameter in self.layers.parameters() if parameter.ndim == 2]

    def other_parameters(self) -> list[nn.Parameter]:
        """The embedding and the norms."""
        matrices = {id(parameter) for parameter in self.matrices()}
        return [parameter for parameter in self.parameters() if id(parameter) not in matrices]

    def llama_state(self) -> dict[str, Tensor]:
        """The weights in fp16 under the names of `LlamaForCausalLM`."""
        state = {"model.embed_tokens.weight": self.embed_tokens.weight, "model.norm.weight": self.norm}
        for number, block in enumerate(self.layers):
            for name, parameter in block.named_parameters():
                module = name.removesuffix(".weight")
                if module.startswith(("q_", "k_", "v_", "o_")):
                    module = f"self_attn.{module}"
                elif module.startswith(("gate", "up", "down")):
                    module = f"mlp.{module}"
                state[f"model.layers.{number}.{module}.weight"] = parameter
        return {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}


def _separation(positions: Tensor) -> Tensor:
    document = (positions == 0).cumsum(-1)
    visible = (document[:, :, None] == document[:, None, :]).tril()[:, None]
    return torch.zeros(visible.shape, dtype=torch.bfloat16).masked_fill_(~visible, float("-inf"))
