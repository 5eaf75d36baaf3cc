"""Turns documents into rows of token ids for training.

Short rows hold several documents that do not see each other; a long row is one text of many documents, which
is what teaches the model to work at every distance up to its context length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from actors.builtin_model.training.conversations import Conversation
from actors.builtin_model.training.corpus import Document, RandomCopy, Story
from actors.builtin_model.training.tokenizer import (
    ASSISTANT_ID,
    BOS,
    BOS_ID,
    CONTEXT_LENGTH,
    EOS,
    EOS_ID,
    PAD_ID,
    ROLE_IDS,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
)

SHORT_ROW = 256
DOCUMENTS_AT_ONCE = 2000
OPEN_ROWS = 16
USER_ID = SPECIAL_TOKENS.index("<|user|>")

Ids = np.ndarray[tuple[int], np.dtype[np.int16]]
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Rows:
    """Rows of one length: token ids, positions within a document and which tokens the model learns to say."""

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor


def encode(tokenizer: PreTrainedTokenizerFast, documents: Iterable[Document]) -> list[Ids]:
    """The token ids of each document, rendered exactly as the shipped chat template renders a request."""
    listed = list(documents)
    texts = [_text(tokenizer, document) for document in listed]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [
        _copy_ids(document) if isinstance(document, RandomCopy) else np.array(encoding.ids, np.int16)
        for document, encoding in zip(listed, encodings, strict=True)
    ]


def _text(tokenizer: PreTrainedTokenizerFast, document: Document) -> str:
    if isinstance(document, Conversation):
        rendered = tokenizer.apply_chat_template(document.messages, tools=[*document.tools] or None, tokenize=False)
        return str(rendered)
    return BOS + document.text + EOS if isinstance(document, Story) else ""


def _copy_ids(document: RandomCopy) -> Ids:
    first = len(SPECIAL_TOKENS)
    copied = [first + int(fraction * (VOCABULARY_SIZE - first)) for fraction in document.fractions]
    return np.array([BOS_ID, USER_ID, *copied, EOS_ID, ASSISTANT_ID, *copied, EOS_ID], np.int16)


def targets_of(ids: Ids) -> Flags:
    """Marks what the model has to say itself: plain texts and the assistant's messages with their end."""
    is_role = np.isin(ids, ROLE_IDS)
    starts = is_role | (ids == BOS_ID)
    speaker = np.maximum.accumulate(np.where(starts, np.arange(len(ids)), 0))
    spoken_by = ids[speaker]
    spoken: Flags = ((spoken_by == ASSISTANT_ID) | (spoken_by == BOS_ID)) & ~starts & (ids != PAD_ID)
    return spoken


def pack_short_rows(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document], count: int) -> Rows:
    """`count` rows of whole documents, each put into the first of the last few rows that has room for it."""
    ids = np.full((count, SHORT_ROW), PAD_ID, np.int16)
    positions = np.tile(np.arange(SHORT_ROW, dtype=np.int16), (count, 1))
    used = np.zeros(count, np.int64)
    newest = 0
    while True:
        for encoded in encode(tokenizer, islice(documents, DOCUMENTS_AT_ONCE)):
            if len(encoded) > SHORT_ROW:
                continue
            candidates = range(max(0, newest - OPEN_ROWS), newest + 1)
            row = next((row for row in candidates if used[row] + len(encoded) <= SHORT_ROW), newest + 1)
            if row == count:
                return _rows(ids, positions)
            newest = max(newest, row)
            begin, end = used[row], used[row] + len(encoded)
            ids[row, begin:end] = encoded
            positions[row, begin:] = np.arange(SHORT_ROW - begin)
            positions[row, end:] = np.arange(SHORT_ROW - end)
            used[row] = end


def pack_long_rows(tokenizer: PreTrainedTokenizerFast, groups: Iterator[list[Document]], count: int) -> Rows:
    """`count` rows of the model's whole context, each cut from one group of documents."""
    ids = np.full((count, CONTEXT_LENGTH), PAD_ID, np.int16)
    for row, documents in enumerate(islice(groups, count)):
        joined = np.concatenate(encode(tokenizer, documents))[:CONTEXT_LENGTH]
        ids[row, : len(joined)] = joined
    return _rows(ids, np.tile(np.arange(CONTEXT_LENGTH, dtype=np.int16), (count, 1)))


def _rows(ids: np.ndarray, positions: np.ndarray) -> Rows:
    targets = np.stack([targets_of(row) for row in ids])
    return Rows(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(targets))
