"""Attention over running rows: the tokens of one step lie packed in one line, and each attends to its own row only.

transformers' models call `packed_attention` through `AttentionInterface`, under the name ATTENTION_NAME, in the place
of their own attention. Which step they are in they know from the `StepHolder` that loading has put on each attention
module, and which window, from a pass under PROBING_NAME: some models limit attention by their masks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from actors.engines.cpu.cache import Block, Row

ATTENTION_NAME, PROBING_NAME = "exlpool_packed", "exlpool_probing"
_WINDOW = "exlpool_window"


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """What a layer asks of its attention: `window` is how many tokens back it sees, itself included; `softcap` and
    `sinks` (heads,) are those of Gemma 2 and gpt-oss."""

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


class AttentionStep(Protocol):
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """From (1, heads, tokens, dim) each to (1, tokens, heads, value_dim)."""
        ...


class StepHolder:
    """Where the attention modules of one model find the step that they are in, and each layer its window."""

    def __init__(self) -> None:
        self.step: AttentionStep | None = None
        self.windows: dict[int, int | None] = {}


def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The signature is that of transformers' attention functions. There is no mask: under this name, transformers makes
    none."""
    holder: StepHolder = module.exlpool_holder
    assert holder.step is not None
    layer = module.layer_idx
    options = Options(kwargs.get("scaling"), holder.windows[layer], kwargs.get("softcap"), kwargs.get("s_aux"))
    return holder.step.attend(layer, query, key, value, options), None


def probing_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """`packed_attention` that finds out the layer's window: that of the mask which the layer would use, or what it says
    itself where its mask is not as `noted_mask` has made it."""
    window = getattr(attention_mask, _WINDOW, kwargs.get("sliding_window"))
    module.exlpool_holder.windows[module.layer_idx] = window
    return packed_attention(module, query, key, value, None, **kwargs)


def noted_mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> Tensor:
    """A mask as transformers makes it, with a note of its window."""
    mask: Tensor = eager_mask(*args, local_size=local_size, **kwargs)
    setattr(mask, _WINDOW, local_size)
    return mask


AttentionInterface.register(ATTENTION_NAME, packed_attention)
AttentionInterface.register(PROBING_NAME, probing_attention)
AttentionMaskInterface.register(PROBING_NAME, noted_mask)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Scaled dot-product attention; `mask` is added to the scores, None means that all is seen.

    query (n, heads, tokens, dim), key and value (n, kv_heads, seen, dim), mask (n or 1, 1, tokens, seen). For a single
    token, query may be (n, kv_heads, heads / kv_heads, dim) as well: those that share keys take the place of tokens.
    """
    # torch's own attention knows neither a soft cap nor sinks; models with one of them take the long way.
    grouped = query.shape[1] != key.shape[1]
    if options.softcap is None and options.sinks is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=options.scale, enable_gqa=grouped
        )
    if grouped:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scale = query.shape[-1] ** -0.5 if options.scale is None else options.scale
    scores = query @ key.transpose(2, 3) * scale
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if mask is not None:
        scores = scores + mask
    if options.sinks is None:
        return scores.softmax(-1) @ value
    sinks = options.sinks.reshape(1, query.shape[1], -1, 1).expand(*scores.shape[:3], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1] @ value


def _additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))


class _DecodeGroup:
    """The next token of every row of one block that decodes."""

    def __init__(self, block: Block, first: int) -> None:
        self.block = block
        self.count = block.decoding
        self.part = slice(first, first + self.count)
        lengths = [row.length for row in block.rows[: self.count]]
        self.positions = torch.tensor(lengths)
        self._seen = max(lengths) + 1
        self._even = min(lengths) == max(lengths)
        self._masks: dict[int | None, Tensor | None] = {}
        self._places: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """From (tokens, heads, dim) each to (count, heads, value_dim)."""
        keys, values = self.block.keys[layer], self.block.values[layer]
        kv_heads = keys.shape[1]
        places = self._places_of(kv_heads, keys.shape[2])
        keys.flatten(0, 2).index_copy_(0, places, key[self.part].flatten(0, 1))
        values.flatten(0, 2).index_copy_(0, places, value[self.part].flatten(0, 1))
        # There is one token of each row, so the heads that share a key can stand where torch expects tokens: one
        # batched product instead of one for every repetition of the keys.
        out = attention(
            query[self.part].view(self.count, kv_heads, -1, query.shape[-1]),
            keys[: self.count, :, : self._seen],
            values[: self.count, :, : self._seen],
            self._mask(options.window),
            options,
        )
        return out.flatten(1, 2)

    def _places_of(self, kv_heads: int, spacing: int) -> Tensor:
        """Where the new keys go in a layer's keys as one list: (count * kv_heads,)."""
        places = self._places.get(kv_heads)
        if places is None:
            heads = torch.arange(self.count * kv_heads).view(self.count, kv_heads)
            places = self._places[kv_heads] = (heads * spacing + self.positions[:, None]).flatten()
        return places

    def _mask(self, window: int | None) -> Tensor | None:
        if window is not None and window >= self._seen:
            window = None
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def _make_mask(self, window: int | None) -> Tensor | None:
        # Rows of one length that see all of it need no mask, and attention is faster without one. Otherwise shorter
        # rows must not see the zeros (or another row's leftovers) behind their end, nor a window's past.
        if self._even and window is None:
            return None
        places, positions = torch.arange(self._seen), self.positions[:, None]
        seen = places <= positions
        if window is not None:
            seen &= places > positions - window
        return _additive(seen)[:, None, None]


class _PromptSpan:
    """A chunk of one prompt, behind what its row holds already."""

    def __init__(self, row: Row, first: int, tokens: int) -> None:
        self.row = row
        self.part = slice(first, first + tokens)
        self.start, self.stop = row.length, row.length + tokens
        self.positions = torch.arange(self.start, self.stop)
        self._masks: dict[int | None, Tensor | None] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """From (tokens, heads, dim) each to (its tokens, heads, value_dim)."""
        keys, values = self.row.block.keys[layer][self.row.index], self.row.block.values[layer][self.row.index]
        keys[:, self.start : self.stop] = key[self.part].transpose(0, 1)
        values[:, self.start : self.stop] = value[self.part].transpose(0, 1)
        out = attention(
            query[None, self.part].transpose(1, 2),
            keys[None, :, : self.stop],
            values[None, :, : self.stop],
            self._mask(options.window),
            options,
        )
        return out[0].transpose(0, 1)

    def _mask(self, window: int | None) -> Tensor | None:
        if window is not None and window >= self.stop:
            window = None
        if window not in self._masks:
            places, positions = torch.arange(self.stop), self.positions[:, None]
            seen = places <= positions
            if window is not None:
                seen &= places > positions - window
            self._masks[window] = _additive(seen)[None, None] if self.stop - self.start > 1 or window else None
        return self._masks[window]


class PackedStep:
    """One forward: the next token of every row that decodes in `blocks`, in that order, then chunks of prompts as
    (row, tokens).

    It reads the rows' lengths when it is made; whoever runs it advances them.
    """

    def __init__(self, blocks: Sequence[Block], chunks: Sequence[tuple[Row, int]]) -> None:
        self._parts: list[_DecodeGroup | _PromptSpan] = []
        self.tokens = 0
        for block in blocks:
            self._parts.append(_DecodeGroup(block, self.tokens))
            self.tokens += block.decoding
        for row, tokens in chunks:
            self._parts.append(_PromptSpan(row, self.tokens, tokens))
            self.tokens += tokens
        self.positions = torch.cat([part.positions for part in self._parts])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        packed = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
        outs = [part.attend(layer, *packed, options) for part in self._parts]
        return (outs[0] if len(outs) == 1 else torch.cat(outs)).unsqueeze(0)
