"""Sampling for a whole decode step: what travels from the GPU is, where the samplers allow it, a few candidates."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future

import numpy as np
import torch

from actors.engines.exllamav2.cut import Candidates, Cut, choose
from actors.engines.exllamav2.job import PoolJob
from actors.engines.exllamav2.logprobs import top_logprobs
from actors.results import TokenLogprobs

Rows = list[int]
_SIGN_CLEARED = 0x7FFFFFFF


class BatchSampler:
    """Chooses the next token of every job of a step, exactly as the library's sampler would for each alone.

    Jobs with a `cut` are decided from their most likely candidates; the others, and those few whose candidates leave
    a doubt, from their full row of logits.
    """

    def __init__(
        self,
        *,
        rows: torch.Tensor,
        vocab_size: int,
        known_tokens: int,
        threads: Executor | None,
        min_threaded_rows: int,
    ) -> None:
        """`rows` is room on the CPU for the logits of a full batch: (batch, 1, padded vocabulary), float32.

        `vocab_size` is the width of the model's logits, of which only the first `known_tokens` are tokens that the
        tokenizer knows and that may be sampled. From `min_threaded_rows` full rows on they are sampled on `threads`.
        """
        self._rows = rows
        self._vocab_size = vocab_size
        self._width = min(known_tokens, vocab_size)
        self._threads = threads
        self._min_threaded_rows = min_threaded_rows
        self._used = 0
        self.full_rows = 0
        """Rows that were sampled in full, in all."""

    def sample(self, jobs: Sequence[PoolJob], logits: torch.Tensor) -> list[torch.Tensor]:
        """One (1, 1) tensor of a token id per job, from logits (jobs, 1, padded vocabulary) on the device."""
        draws = [job.draw() for job in jobs]
        few = [row for row, job in enumerate(jobs) if job.cut is not None]
        full = [row for row, job in enumerate(jobs) if job.cut is None]
        self._used = 0
        tokens: dict[int, torch.Tensor] = {}
        running = self._start_full(jobs, logits, full, draws)
        if few:
            self._sample_few(jobs, logits, few, draws, tokens)
            doubtful = [row for row in few if row not in tokens]
            running += self._start_full(jobs, logits, doubtful, draws)
        for row, future in running:
            tokens[row] = future.result()[0] if isinstance(future, Future) else future
        return [tokens[row] for row in range(len(jobs))]

    def _start_full(
        self, jobs: Sequence[PoolJob], logits: torch.Tensor, rows: Rows, draws: Sequence[float]
    ) -> list[tuple[int, Future[tuple[torch.Tensor, ...]] | torch.Tensor]]:
        """Fetch rows whole; sample them on threads if they are enough to pay for the threads."""
        if not rows:
            return []
        self.full_rows += len(rows)
        fetched = self._rows[self._used : self._used + len(rows)]
        self._used += len(rows)
        fetched.copy_(logits if len(rows) == logits.shape[0] else logits[rows])
        parts = list(zip(rows, torch.split(fetched, 1), strict=True))
        if self._threads is not None and len(rows) >= self._min_threaded_rows:
            submit = self._threads.submit
            return [(row, submit(jobs[row].sample_row, part, draws[row])) for row, part in parts]
        return [(row, jobs[row].sample_row(part, draws[row])[0]) for row, part in parts]

    def _sample_few(
        self,
        jobs: Sequence[PoolJob],
        logits: torch.Tensor,
        rows: Rows,
        draws: Sequence[float],
        tokens: dict[int, torch.Tensor],
    ) -> None:
        cuts = [cut for row in rows if (cut := jobs[row].cut) is not None]
        chosen = [jobs[row] for row in rows]
        wanted = logits[:, 0, : self._width] if len(rows) == len(jobs) else logits[rows, 0, : self._width]
        raw = most_likely(wanted, max(cut.candidates for cut in cuts))
        ids, certain = choose(penalised(raw, chosen, cuts), cuts, [draws[row] for row in rows])
        parts = torch.from_numpy(ids).view(-1, 1, 1).unbind()
        for place, row in enumerate(rows):
            if certain[place]:
                tokens[row] = parts[place]
        places = [place for place, job in enumerate(chosen) if job.params.logprobs is not None and certain[place]]
        if places:
            noted = Candidates(raw.values[places], raw.ids[places], raw.bound[places])
            told = logits[[rows[place] for place in places], 0]
            self._note_logprobs([chosen[place] for place in places], told, noted, ids[places].tolist())

    def _note_logprobs(
        self, jobs: Sequence[PoolJob], logits: torch.Tensor, raw: Candidates, ids: Sequence[int]
    ) -> None:
        """From raw logits (jobs, padded vocabulary) and their most likely tokens, before any penalty."""
        normalisers = torch.logsumexp(logits[:, : self._vocab_size].float(), dim=-1).tolist()
        for job, normaliser, values, row_ids, token_id in zip(jobs, normalisers, raw.values, raw.ids, ids, strict=True):
            count = job.params.logprobs or 0
            top = top_logprobs(values[:count].tolist(), row_ids[:count].tolist(), normaliser)
            value = float(values[row_ids == token_id][0])
            job.note_logprobs(TokenLogprobs(token_id, value - normaliser, top))


def most_likely(logits: torch.Tensor, count: int) -> Candidates:
    """The `count` most likely tokens of each row of (rows, vocabulary), found where the logits are.

    They travel as one integer each, the value's bits over the id, which also sorts them.
    """
    count = min(count, logits.shape[1])
    values, ids = torch.topk(logits, count, dim=-1)
    bits = (values.float() + 0.0).view(torch.int32)  # the sum makes one zero out of two
    ordered = bits ^ ((bits >> 31) & _SIGN_CLEARED)
    keys = ((ordered.long() << 32) | ids).sort(dim=-1, descending=True).values.cpu().numpy()
    back = (keys >> 32).astype(np.int32)
    found = (back ^ ((back >> 31) & np.int32(_SIGN_CLEARED))).view(np.float32)
    bound = np.full(len(found), -np.inf, np.float32) if count == logits.shape[1] else found[:, -1].copy()
    return Candidates(found, keys & 0xFFFFFFFF, bound)


def penalised(raw: Candidates, jobs: Sequence[PoolJob], cuts: Sequence[Cut]) -> Candidates:
    """Candidates after the penalties of their jobs, in order again. Penalties only lower, so the bound still holds."""
    rows = [row for row, cut in enumerate(cuts) if cut.penalised]
    if not rows:
        return raw
    values, ids = raw.values.copy(), raw.ids.copy()
    for row in rows:
        job, cut, row_ids = jobs[row], cuts[row], ids[row]
        if cut.repetition_penalty != 1.0:
            penalty, seen = np.float32(cut.repetition_penalty), job.memory.in_sequence[row_ids]
            lowered = np.where(values[row] > 0, values[row] / penalty, values[row] * penalty)
            values[row] = np.where(seen, lowered, values[row])
        if cut.presence_penalty:
            values[row] -= job.memory.in_completion[row_ids] * np.float32(cut.presence_penalty)
        order = np.lexsort((-row_ids, -values[row]))
        values[row], ids[row] = values[row][order], row_ids[order]
    return Candidates(values, ids, raw.bound)
