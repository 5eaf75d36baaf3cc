"""One job of the library's generator, with what the library gets wrong or does slowly done here.

Text is none of its business: it hands out token ids, and `actors.engines.text` makes text and finds stop strings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from exllamav2.ext import exllamav2_ext as ext
from exllamav2.generator import ExLlamaV2DynamicJob, ExLlamaV2Sampler
from exllamav2.generator.dynamic import _tensor_hash_checksum

from actors.engines.base import EngineJob
from actors.engines.exllamav2.grammar_filter import GrammarFilter
from actors.engines.exllamav2.settings import sampler_settings
from actors.errors import EngineFailure
from actors.messages import TokenLogprobs

logger = logging.getLogger(__name__)


class EndCause(Enum):
    STOP_TOKEN = auto()
    LENGTH = auto()
    FAILURE = auto()


@dataclass(frozen=True, slots=True)
class End:
    cause: EndCause
    stop_token_id: int | None = None


class PoolJob(ExLlamaV2DynamicJob):  # type: ignore[misc]
    """A job that collects its sampled ids in `sampled` and says in `end` why it is over.

    `settled` counts the ids of `sampled` that banned strings cannot take back any more.
    """

    def __init__(
        self,
        job: EngineJob,
        *,
        stop_token_ids: frozenset[int],
        draft_tokens: int,
        vocab_size: int,
        grammar: GrammarFilter | None,
    ) -> None:
        params = job.params
        super().__init__(
            input_ids=torch.tensor([job.token_ids], dtype=torch.long),
            # The library stops this many tokens early when it drafts, and reserves too few pages for them.
            max_new_tokens=job.max_new_tokens + draft_tokens,
            min_new_tokens=params.min_new_tokens,
            max_skips=0,  # never overtaken: jobs start in order of submission
            gen_settings=sampler_settings(params),
            seed=job.seed,
            stop_conditions=sorted(stop_token_ids),
            filters=[] if grammar is None else [grammar],
            token_healing=params.token_healing,
            identifier=job.job_id,
            banned_strings=[text for text in params.banned_strings if text] or None,
        )
        self.job_id = job.job_id
        self.params = params
        self.grammar = grammar
        self.vocab_size = vocab_size
        self.prompt_tokens = len(self.sequences[0].sequence_ids)
        self.last_token_id = int(self.sequences[0].sequence_ids.torch()[0, -1])
        self.sampled: list[int] = []
        self.settled = 0
        self.logprobs: list[TokenLogprobs] = []
        self.end: End | None = None
        self.failure: Exception | None = None
        ids, values = list(params.logit_bias), list(params.logit_bias.values())
        self._bias = (torch.tensor(ids, dtype=torch.long), torch.tensor(values, dtype=torch.float)) if ids else None

    @property
    def healed(self) -> bool:
        """Whether the prompt's last token was taken away, to be sampled again."""
        return self.prefix_token is not None

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens, so far, that were not computed because they were resident."""
        return int(self.cached_pages * self.generator.page_size + self.cached_tokens)

    def receive_logits(self, logits: torch.Tensor) -> tuple[Any, ...]:
        """Sample from a float32 row of shape (1, 1, padded vocabulary) on the CPU, which is changed."""
        return self.sample_row(logits, self.rng.random())

    def sample_row(self, logits: torch.Tensor, draw: float) -> tuple[Any, ...]:
        """As `receive_logits`, with the random number given. A fault fails this job alone, not its batch."""
        try:
            wanted = self.params.logprobs
            raw = logits[0, 0, : self.vocab_size].clone() if wanted is not None else None
            self._adjust(logits)
            sample = self._sample(logits, draw)
            if raw is not None and wanted is not None:
                self.note_logprobs(_logprobs(raw, int(sample[0]), wanted))
        except Exception as error:
            logger.exception("Sampling failed for job %d", self.job_id)
            self.failure = EngineFailure(f"Sampling failed: {type(error).__name__}: {error}")
            return torch.zeros((1, 1), dtype=torch.long), None, None, None, False
        return sample

    def note_logprobs(self, entry: TokenLogprobs) -> None:
        """Keep the log-probabilities of the token that is being sampled, at its place among `sampled`."""
        del self.logprobs[self._sampled_count() :]
        self.logprobs.append(entry)

    def _sampled_count(self) -> int:
        return len(self.sequences[0].sequence_ids) - self.prompt_tokens

    def _adjust(self, logits: torch.Tensor) -> None:
        """Bias first, then penalties: repetition over prompt and completion, presence and frequency over the
        completion alone (OpenAI's meaning)."""
        params = self.params
        if self._bias is not None:
            ids, values = self._bias
            logits[0, 0, ids] += values
        sequence = self.sequences[0].sequence_ids.torch()
        if params.repetition_penalty != 1.0:
            reach = (params.repetition_range, params.repetition_decay)
            ext.apply_rep_penalty(sequence, params.repetition_penalty, *reach, 0.0, 0.0, logits)
        if params.presence_penalty or params.frequency_penalty:
            reach = (self._sampled_count(), 0)
            ext.apply_rep_penalty(sequence, 1.0, *reach, params.frequency_penalty, params.presence_penalty, logits)

    def _sample(self, logits: torch.Tensor, draw: float) -> tuple[Any, ...]:
        """`ExLlamaV2DynamicJob.receive_logits` of 0.3.2, with the random number given."""
        if self.new_tokens == 0:
            for mask in self.filters:
                mask.background_drop()
                mask.begin("")
        blocked: list[int] = []
        if self.checkpoint and self.checkpoint["offset"] == 0:
            blocked += self.checkpoint["explored_tokens"]
        if self.new_tokens < self.min_new_tokens:
            blocked += self.stop_tokens_list
        healing = self.new_tokens == -1
        sample: tuple[Any, ...] = ExLlamaV2Sampler.sample(
            logits,
            self.gen_settings,
            self.sequences[0].sequence_ids.torch(),
            draw,
            self.generator.tokenizer,
            self.prefix_token if healing else None,
            blocked_tokens=blocked or None,
            filters=None if healing else self.filters,
        )
        return sample

    def receive_sample(
        self,
        logits: torch.Tensor | None,
        next_token: torch.Tensor,
        next_k_tokens: Any,
        next_k_probs: Any,
        next_prob: Any,
        filter_eos: bool | None,
        results: list[Any],
        first_sample_in_sd_batch: bool = True,
    ) -> tuple[bool, torch.Tensor]:
        """Take a sampled token; returns whether the job is over, and the token."""
        if self.failure is not None:
            self.end = End(EndCause.FAILURE)
            return True, next_token
        if self.banned_strings:
            over, _ = super().receive_sample(
                None, next_token, None, None, None, False, results, first_sample_in_sd_batch
            )
            self._settle_banned(results.pop(), over)
        else:
            over = self._accept(next_token, first_sample_in_sd_batch)
        if self.grammar is not None and self.grammar.failure is not None:
            self.failure = self.grammar.failure
            self.end = End(EndCause.FAILURE)
            return True, next_token
        return over, next_token

    def _accept(self, next_token: torch.Tensor, first_of_step: bool) -> bool:
        """The library's `receive_sample` without text and without copies of what nobody reads."""
        if self.new_tokens >= 0:
            for mask in self.filters:
                mask.feed(next_token)
                if first_of_step and self.generator.filter_queue is not None:
                    self.generator.filter_queue.append((mask, True))
        token_id = int(next_token)
        self.new_tokens += 1
        self._append(next_token)
        self.sampled.append(token_id)
        self.settled += 1
        self.last_token_id = token_id
        if token_id in self.stop_tokens:
            self.end = End(EndCause.STOP_TOKEN, token_id)
        elif self.new_tokens >= self.max_new_tokens - self.generator.num_draft_tokens:
            self.end = End(EndCause.LENGTH)
        return self.end is not None

    def _append(self, next_token: torch.Tensor) -> None:
        """Extend the sequence; name the page that it completed, so that a later prompt finds it."""
        sequence = self.sequences[0]
        sequence.sequence_ids.append(next_token)
        sequence.kv_position += 1
        if sequence.kv_position % self.generator.page_size == 0:
            self._name_page(sequence, sequence.kv_position // self.generator.page_size - 1)

    def _name_page(self, sequence: Any, index: int) -> None:
        generator = self.generator
        page = sequence.allocated_pages[index]
        parent = sequence.allocated_pages[index - 1].phash if index else None
        ids = sequence.sequence_ids.torch_slice(index * generator.page_size, (index + 1) * generator.page_size)
        name = _tensor_hash_checksum(ids, parent)
        twin = generator.referenced_pages.get(name)
        if twin is not None:
            serial = page.access_serial
            page.sub_ref()
            sequence.allocated_pages[index] = twin
            sequence.block_index_tensor = None
            twin.add_ref(serial)
        else:
            if name in generator.unreferenced_pages:
                generator.unreferenced_pages[name].clear()
            page.update_hash(name)
        if index + 1 < len(sequence.allocated_pages):
            following = sequence.allocated_pages[index + 1]
            following.prev_hash = name
            following.can_revert = False

    def _settle_banned(self, result: dict[str, Any], over: bool) -> None:
        """The ids are read from the sequence: what the library streams includes ids that it has taken back."""
        sequence = self.sequences[0].sequence_ids
        self.sampled = sequence.torch()[0, self.prompt_tokens :].tolist()
        self.last_token_id = int(sequence.torch()[0, -1])
        del self.logprobs[len(self.sampled) :]
        undecided = self.checkpoint["offset"] if self.checkpoint else 0
        if not over:
            self.settled = len(self.sampled) - undecided
            return
        if result["eos_reason"] == "stop_token":
            self.end = End(EndCause.STOP_TOKEN, int(result["eos_triggering_token_id"]))
            self.settled = len(self.sampled)
            return
        self.end = End(EndCause.LENGTH)
        if not self._tail_is_banned():
            self.settled = len(self.sampled)

    def _tail_is_banned(self) -> bool:
        """The library ends a job at its bound before it looks whether the last token completed a banned string."""
        pieces = self.generator.tokenizer.get_id_to_piece_list(self.decode_special_tokens)
        tail = "".join(pieces[token_id] for token_id in self.sampled[self.settled :]).lower()
        return any(banned in tail for banned in self.banned_strings)


def _logprobs(raw: torch.Tensor, token_id: int, count: int) -> TokenLogprobs:
    """From one row of raw logits, float32."""
    normaliser = float(torch.logsumexp(raw, dim=-1))
    top: tuple[tuple[int, float], ...] = ()
    if count:
        values, ids = torch.topk(raw, min(count, raw.shape[-1]))
        top = tuple((int(i), float(v) - normaliser) for v, i in zip(values.tolist(), ids.tolist(), strict=True))
    return TokenLogprobs(token_id, float(raw[token_id]) - normaliser, top)
