"""Where keys and values live: the page pool, which prefix reuse shares, and the blocks that attention reads.

Attention wants the keys of one sequence side by side, pages are scattered, and gathering them anew in every step costs
more than attention itself. So each running sequence has a row of its own in a block, appended to in place; a page is
copied from the row to the pool when it is full, and from the pool to a row when another sequence begins with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.paging.hashes import PAGE_TOKENS

BYTES_PER_VALUE = 4  # float32
KEPT_BLOCK_BYTES = 2**26
"""A block without rows is kept for the next ones if it is no larger."""
SPACING_TOKENS = 16
"""Unused, behind each row of a block: rows a power of two of bytes apart would share the same few sets of the
processor's caches (a third off the time of attention over 32 rows)."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's keys and values of one token: (heads, key_dim) and (heads, value_dim)."""

    heads: int
    key_dim: int
    value_dim: int

    @property
    def token_bytes(self) -> int:
        return self.heads * (self.key_dim + self.value_dim) * BYTES_PER_VALUE


class _Store:
    """Keys and values of all layers, each (places, heads, tokens, dim), float32."""

    def __init__(self, shapes: Sequence[LayerShape], places: int, tokens: int) -> None:
        # Zeros, since attention multiplies what it masks by 0, and 0 times NaN is NaN.
        self.keys = [torch.zeros(places, shape.heads, tokens, shape.key_dim) for shape in shapes]
        self.values = [torch.zeros(places, shape.heads, tokens, shape.value_dim) for shape in shapes]

    def copy(self, place: int, start: int, source: _Store, source_place: int, source_start: int, tokens: int) -> None:
        here, there = slice(start, start + tokens), slice(source_start, source_start + tokens)
        for mine, others in ((self.keys, source.keys), (self.values, source.values)):
            for to, of in zip(mine, others, strict=True):
                to[place, :, here] = of[source_place, :, there]


class PagePool(_Store):
    """The pages, as many as the page table has."""

    def __init__(self, shapes: Sequence[LayerShape], pages: int) -> None:
        super().__init__(shapes, pages, PAGE_TOKENS)


class Block(_Store):
    """Rows of one capacity in tokens, side by side from the first place on: those that decode, `decoding` of them, then
    those whose prompt is not through. So attention over all that decode needs no gathering."""

    def __init__(self, shapes: Sequence[LayerShape], places: int, capacity: int) -> None:
        super().__init__(shapes, places, capacity + SPACING_TOKENS)
        self.capacity = capacity
        self.places = places
        self.rows: list[Row] = []
        self.decoding = 0

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() for tensor in (*self.keys, *self.values)) * BYTES_PER_VALUE

    def exchange(self, first: int, second: int) -> None:
        """Let two rows change places."""
        if first == second:
            return
        one, other = self.rows[first], self.rows[second]
        for tensor in (*self.keys, *self.values):
            kept = tensor[first, :, : one.length].clone()
            tensor[first, :, : other.length] = tensor[second, :, : other.length]
            tensor[second, :, : one.length] = kept
        self.rows[first], self.rows[second] = other, one
        one.index, other.index = second, first

    def remove(self, index: int) -> None:
        """Take a row out; the last ones of each kind move up."""
        # Decoding rows lie in front without a gap, the others behind them. So one that decodes leaves its place to the
        # last that decodes, whose place then goes, like that of any other, to the last of all.
        if index < self.decoding:
            self.decoding -= 1
            self._move(self.decoding, index)
            index = self.decoding
        self._move(len(self.rows) - 1, index)
        self.rows.pop()

    def _move(self, source: int, place: int) -> None:
        """Let the row at `source` take a place that is free."""
        if source == place:
            return
        row = self.rows[source]
        self.copy(place, 0, self, source, 0, row.length)
        self.rows[place] = row
        row.index = place


class Row:
    """The keys and values of one running sequence: its first `length` tokens are valid."""

    __slots__ = ("block", "index", "length")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.index = len(block.rows)
        self.length = 0
        block.rows.append(self)

    def store_page(self, pool: PagePool, page: int, start: int, tokens: int) -> None:
        """Copy `tokens` tokens from position `start`, the first of a page, to that page of the pool."""
        pool.copy(page, 0, self.block, self.index, start, tokens)

    def load_page(self, pool: PagePool, page: int, start: int, tokens: int) -> None:
        """Take the first `tokens` tokens of a page as those from position `start`, and go on from behind them."""
        self.block.copy(self.index, start, pool, page, 0, tokens)
        self.length = start + tokens


class RunningRows:
    """The rows of all running sequences, in blocks by size class: a power of two of pages.

    So a row is never padded to more than twice its length, or to one page.
    """

    def __init__(self, shapes: Sequence[LayerShape]) -> None:
        self._shapes = shapes
        self._blocks: dict[int, Block] = {}

    def open(self, prompt_tokens: int) -> Row:
        """A row for a prompt and the token behind it."""
        return Row(self._block_with_room(_capacity(prompt_tokens + 1)))

    def start_decoding(self, row: Row) -> None:
        """The row's prompt is through: from now on it decodes beside its peers."""
        block = row.block
        block.exchange(row.index, block.decoding)
        block.decoding += 1

    def make_room(self, row: Row) -> None:
        """See that a row that decodes can take one more token."""
        if row.length < row.block.capacity:
            return
        block = self._block_with_room(_capacity(row.length + 1))
        block.copy(len(block.rows), 0, row.block, row.index, 0, row.length)
        self.close(row)
        row.block, row.index = block, len(block.rows)
        block.rows.append(row)
        self.start_decoding(row)

    def close(self, row: Row) -> None:
        """Give a row back, wherever it is."""
        block = row.block
        block.remove(row.index)
        if not block.rows and block.bytes > KEPT_BLOCK_BYTES:
            del self._blocks[block.capacity]

    def decoding(self) -> list[Block]:
        """The blocks with rows that decode, the smallest capacity first."""
        return [self._blocks[capacity] for capacity in sorted(self._blocks) if self._blocks[capacity].decoding]

    def _block_with_room(self, capacity: int) -> Block:
        block = self._blocks.get(capacity)
        if block is None:
            block = self._blocks[capacity] = Block(self._shapes, 1, capacity)
        if len(block.rows) < block.places:
            return block
        # Twice as many places, what is filled is copied. Rows keep their index and are told of their new block.
        larger = Block(self._shapes, 2 * block.places, capacity)
        filled = max(row.length for row in block.rows)
        for to, of in zip((*larger.keys, *larger.values), (*block.keys, *block.values), strict=True):
            to[: block.places, :, :filled] = of[:, :, :filled]
        larger.rows, larger.decoding = block.rows, block.decoding
        for row in larger.rows:
            row.block = larger
        self._blocks[capacity] = larger
        return larger


def _capacity(tokens: int) -> int:
    """The smallest power of two of pages that holds `tokens` tokens."""
    capacity = PAGE_TOKENS
    while capacity < tokens:
        capacity *= 2
    return capacity
