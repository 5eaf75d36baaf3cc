"""Where keys and values live: the page pool, which prefix reuse shares, and the blocks that attention reads.

Attention wants the keys of one sequence side by side, pages are scattered, and gathering them anew in every step costs
more than attention itself. So each running sequence has a row of its own in a block, appended to in place; a page is
copied from the row to the pool when it is full, and from the pool to a row when another sequence begins with it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from actors.paging.hashes import PAGE_TOKENS

BYTES_PER_VALUE = 4  # float32
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


_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _Store:
    """Keys and values of all layers, each (places, heads, tokens, dim), float32."""

    # Numbers from the first moment on, since attention multiplies what it masks by 0, and 0 times NaN is NaN.
    keys: list[Tensor]
    values: list[Tensor]

    def copy(self, place: int, start: int, source: _Store, source_place: int, source_start: int, tokens: int) -> None:
        here, there = slice(start, start + tokens), slice(source_start, source_start + tokens)
        for mine, others in ((self.keys, source.keys), (self.values, source.values)):
            for to, of in zip(mine, others, strict=True):
                to[place, :, here] = of[source_place, :, there]


class PagePool(_Store):
    """The pages, as many as the page table has."""

    def __init__(self, shapes: Sequence[LayerShape], pages: int) -> None:
        self.keys = [torch.zeros(pages, shape.heads, PAGE_TOKENS, shape.key_dim) for shape in shapes]
        self.values = [torch.zeros(pages, shape.heads, PAGE_TOKENS, shape.value_dim) for shape in shapes]


class Block(_Store):
    """Rows of one capacity in tokens, side by side from the first place on: those that decode, `decoding` of them, then
    those whose prompt is not through. So attention over all that decode needs no gathering.

    All its places are mapped at once, so that a row that joins moves none of the others. What has not been written
    takes no memory, and a row that leaves gives its memory back to the system.
    """

    def __init__(self, shapes: Sequence[LayerShape], places: int, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[Row] = []
        self.decoding = 0
        tokens = capacity + SPACING_TOKENS
        self._mapped: list[_Mapped] = []
        self.keys = [self._map(places, shape.heads, tokens, shape.key_dim) for shape in shapes]
        self.values = [self._map(places, shape.heads, tokens, shape.value_dim) for shape in shapes]

    def _map(self, *shape: int) -> Tensor:
        mapped = _Mapped(*shape)
        self._mapped.append(mapped)
        return mapped.tensor

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
        for mapped in self._mapped:
            mapped.forget(len(self.rows))

    def _move(self, source: int, place: int) -> None:
        """Let the row at `source` take a place that is free."""
        if source == place:
            return
        row = self.rows[source]
        self.copy(place, 0, self, source, 0, row.length)
        self.rows[place] = row
        row.index = place


class _Mapped:
    """Zeros (places, heads, tokens, dim), float32, that take memory only where they have been written to."""

    def __init__(self, places: int, *shape: int) -> None:
        self._place_bytes = prod(shape) * BYTES_PER_VALUE
        self._memory = mmap.mmap(-1, places * self._place_bytes, **_PRIVATE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # else the first token would take 2 MiB of each tensor
        self.tensor = torch.frombuffer(self._memory, dtype=torch.float32).view(places, *shape)

    def forget(self, place: int) -> None:
        """What a place holds is not needed any more: numbers, but which, is open from here on."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = -(-place * self._place_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (place + 1) * self._place_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if start < stop:
            self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)


class Row:
    """The keys and values of one running sequence: its first `length` tokens are valid."""

    __slots__ = ("block", "index", "length", "reserved_tokens")

    def __init__(self, block: Block, reserved_tokens: int) -> None:
        self.block = block
        self.index = len(block.rows)
        self.length = 0
        self.reserved_tokens = reserved_tokens
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

    So a row is never padded to more than twice its length, or to one page. No more than `room_tokens` tokens are taken
    by the rows of at most `max_rows` sequences, counted as `row_tokens` of what each may grow to.
    """

    def __init__(self, shapes: Sequence[LayerShape], max_rows: int, room_tokens: int) -> None:
        self._shapes = shapes
        self._max_rows = max_rows
        self._all_room_tokens = self._room_tokens = room_tokens
        self._blocks: dict[int, Block] = {}

    def has_room(self, tokens: int) -> bool:
        """Whether a sequence that grows to `tokens` tokens can have a row now."""
        return row_tokens(tokens) <= self._room_tokens

    def open(self, prompt_tokens: int, tokens: int) -> Row:
        """A row for a prompt and the token behind it, that may grow to `tokens` tokens. There must be room for it."""
        self._room_tokens -= row_tokens(tokens)
        return Row(self._block(_capacity(prompt_tokens + 1)), row_tokens(tokens))

    def start_decoding(self, row: Row) -> None:
        """The row's prompt is through: from now on it decodes beside its peers."""
        block = row.block
        block.exchange(row.index, block.decoding)
        block.decoding += 1

    def make_room(self, row: Row) -> None:
        """See that a row that decodes can take one more token."""
        if row.length < row.block.capacity:
            return
        block = self._block(_capacity(row.length + 1))
        block.copy(len(block.rows), 0, row.block, row.index, 0, row.length)
        row.block.remove(row.index)
        row.block, row.index = block, len(block.rows)
        block.rows.append(row)
        self.start_decoding(row)

    def close(self, row: Row) -> None:
        """Give a row back, wherever it is."""
        row.block.remove(row.index)
        self._room_tokens += row.reserved_tokens

    def decoding(self) -> list[Block]:
        """The blocks with rows that decode, the smallest capacity first."""
        return [self._blocks[capacity] for capacity in sorted(self._blocks) if self._blocks[capacity].decoding]

    def _block(self, capacity: int) -> Block:
        block = self._blocks.get(capacity)
        if block is None:
            # Every row in it may grow to its capacity at least, so no more of them can be open at once.
            places = min(self._max_rows, self._all_room_tokens // (capacity + SPACING_TOKENS))
            block = self._blocks[capacity] = Block(self._shapes, places, capacity)
        return block


def row_tokens(tokens: int) -> int:
    """What a row that holds `tokens` tokens in the end is counted as."""
    return _capacity(tokens) + SPACING_TOKENS


def _capacity(tokens: int) -> int:
    """The smallest power of two of pages that holds `tokens` tokens."""
    capacity = PAGE_TOKENS
    while capacity < tokens:
        capacity *= 2
    return capacity
