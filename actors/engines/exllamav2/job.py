"""One job of the library's generator, with what the library gets wrong or does slowly done here.

Text is none of its business: it hands out token ids, and `actors.engines.text` makes text and finds stop strings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
import torch
from exllamav2.generator import ExLlamaV2DynamicJob, ExLlamaV2Sampler

from actors.engines.base import EngineJob
from actors.engines.draws import Draws
from actors.engines.exllamav2.banned import banned_strings_of
from actors.engines.exllamav2.cut import cut_of
from actors.engines.exllamav2.grammar_filter import GrammarFilter
from actors.engines.exllamav2.logprobs import logprobs_of
from actors.engines.exllamav2.opening import opening_of
from actors.engines.exllamav2.pages import name_page, shorten
from actors.engines.exllamav2.penalties import LogitAdjustment, PenaltyMemory
from actors.engines.exllamav2.settings import is_greedy, sampler_settings
from actors.engines.text import Pieces
from actors.errors import EngineFailure, InvalidRequest
from actors.results import TokenLogprobs

logger = logging.getLogger(__name__)


class EndCause(Enum):
    """`COMPLETE`: nothing can follow under the grammar."""

    STOP_TOKEN = auto()
    COMPLETE = auto()
    LENGTH = auto()
    FAILURE = auto()


@dataclass(frozen=True, slots=True)
class End:
    cause: EndCause
    stop_token_id: int | None = None


class PoolJob(ExLlamaV2DynamicJob):  # type: ignore[misc]
    """A job that collects the ids of its completion in `sampled` and says in `end` why it is over.

    The first `resumed_tokens` of them were there before. `settled` counts those that banned strings cannot take back
    any more. A completion that is resumed goes on as it would have gone on where it began, except under mirostat: what
    that has learned follows from logits which are not there any more, so it learns anew.
    """

    def __init__(
        self,
        job: EngineJob,
        *,
        stop_token_ids: frozenset[int],
        draft_tokens: int,
        vocab_size: int,
        pieces: Pieces,
        grammar: GrammarFilter | None,
    ) -> None:
        params = job.params
        self.opening = opening = opening_of(job, pieces)
        token_ids = job.token_ids if opening.to_heal else opening.token_ids
        super().__init__(
            input_ids=torch.from_numpy(np.fromiter(token_ids, np.int64, len(token_ids)))[None],
            # The library stops this many tokens early when it drafts, and reserves too few pages for them.
            max_new_tokens=job.max_new_tokens + draft_tokens,
            min_new_tokens=params.min_new_tokens,
            max_skips=0,  # never overtaken: jobs start in order of submission
            gen_settings=sampler_settings(params),
            seed=0,  # nothing is drawn from the library's generator of random numbers
            stop_conditions=sorted(stop_token_ids),
            filters=[] if grammar is None else [grammar],
            token_healing=bool(opening.to_heal),
            identifier=job.job_id,
        )
        self.job_id = job.job_id
        self.params = params
        self.grammar = grammar
        self.banned = banned_strings_of(params, pieces, opening)
        self._draws = None if is_greedy(params) else Draws(job.seed, opening.completion_ids)
        self.resumed_tokens = job.resumed_tokens
        self._max_sampled = job.resumed_tokens + job.max_new_tokens
        self.vocab_size = vocab_size
        self.prompt_tokens = len(opening.prompt_ids)
        self.last_token_id = int(self.sequences[0].sequence_ids.torch()[0, -1])
        self.sampled = list(opening.completion_ids)
        self.settled = len(self.sampled)
        self.logprobs: list[TokenLogprobs] = []
        """Of the tokens of `sampled` behind the resumed ones."""
        self.end: End | None = None
        self._next_page = -1
        self.failure: Exception | None = None
        self.cut = None if self.healed else cut_of(params)
        kept = self.cut is not None and self.cut.penalised
        self.memory = PenaltyMemory(opening.prompt_ids, opening.completion_ids, vocab_size, kept=kept)
        self._adjustment = LogitAdjustment(params)

    @property
    def healed(self) -> bool:
        """Whether the prompt's last token was taken away, to be sampled again in this job."""
        return self.prefix_token is not None

    @property
    def new_sampled(self) -> int:
        """How many tokens this job has sampled: of `sampled`, those that were not there before."""
        return len(self.sampled) - self.resumed_tokens

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens, so far, that were not computed because they were resident."""
        return int(self.cached_pages * self.generator.page_size + self.cached_tokens)

    def allocate_pages(self) -> None:
        self.generator.pages_touched = True
        super().allocate_pages()

    def deallocate_pages(self) -> None:
        self.generator.pages_touched = True
        super().deallocate_pages()

    def receive_logits(self, logits: torch.Tensor) -> tuple[Any, ...]:
        """Sample from a float32 row of shape (1, 1, padded vocabulary) on the CPU, which is changed."""
        return self.sample_row(logits, self.draw())

    def draw(self) -> float:
        """The random number for the token that comes next: the same until that is there, or taken back."""
        if self._draws is None:
            return 0.0
        return self._draws.draw(0 if self.banned is None else len(self.banned.blocked))

    @torch.inference_mode()  # sampling threads do not inherit it
    def sample_row(self, logits: torch.Tensor, draw: float) -> tuple[Any, ...]:
        """As `receive_logits`, with the random number given. A fault fails this job alone, not its batch."""
        try:
            if torch.isnan(logits).any():
                raise ArithmeticError("the model's logits are not numbers")
            wanted = self.params.logprobs
            raw = logits[0, 0, : self.vocab_size].clone() if wanted is not None else None
            self._adjustment.apply(logits, self.sequences[0].sequence_ids.torch(), self._sampled_count())
            sample = self._sample(logits, draw)
            if raw is not None and wanted is not None:
                self.note_logprobs(logprobs_of(raw, int(sample[0]), wanted))
        except Exception as error:
            logger.exception("Sampling failed for job %d", self.job_id)
            self.failure = EngineFailure(f"Sampling failed: {type(error).__name__}: {error}")
            return torch.zeros((1, 1), dtype=torch.long), None, None, None, False
        return sample

    def note_logprobs(self, entry: TokenLogprobs) -> None:
        """Keep the log-probabilities of the token that is being sampled, at its place among `sampled`."""
        del self.logprobs[self._sampled_count() - self.resumed_tokens :]
        self.logprobs.append(entry)

    def _sampled_count(self) -> int:
        return len(self.sequences[0].sequence_ids) - self.prompt_tokens

    def _sample(self, logits: torch.Tensor, draw: float) -> tuple[Any, ...]:
        """`ExLlamaV2DynamicJob.receive_logits` of 0.3.2, with the random number given."""
        if self.new_tokens == 0:
            for mask in self.filters:
                mask.background_drop()
                mask.begin("")
        blocked = sorted(self.banned.blocked) if self.banned is not None else []
        if len(self.sampled) < self.min_new_tokens:
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
        # A job is over for one of these reasons, `end` says which:
        # - sampling failed (`failure` is set): the token is no token;
        # - the token is a stop token: it counts, and is not shown;
        # - the token completes a banned string: it is taken back with the others of the string, and the job goes on,
        #   unless there is nothing left to say, or too much was taken back;
        # - its text is complete under the grammar: nothing but an end could follow;
        # - the completion has its length;
        # - the grammar turned out too complex over this token, whatever else is true of it.
        if self.failure is not None:
            self.end = End(EndCause.FAILURE)
            return True, next_token
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
        self._append(next_token)
        self.memory.add(token_id)
        if token_id in self.stop_tokens and not self._is_prompts_own(token_id):
            self.end = End(EndCause.STOP_TOKEN, token_id)
        elif self._take_back(token_id):
            return self.end is not None
        elif self.grammar is not None and self.grammar.complete:
            self.end = End(EndCause.COMPLETE)
        elif len(self.sampled) >= self._max_sampled:
            self.end = End(EndCause.LENGTH)
        undecided = self.banned.undecided if self.banned is not None and self.end is None else 0
        self.settled = len(self.sampled) - undecided
        self._name_pages()
        return self.end is not None

    def _is_prompts_own(self, token_id: int) -> bool:
        """Whether it is the token that healing took away, sampled again."""
        return self.healed and len(self.sampled) == 1 and token_id == int(self.prefix_token)

    def _append(self, next_token: torch.Tensor) -> None:
        sequence = self.sequences[0]
        if self._next_page < 0:  # only now is it sure that the prompt is through, and where the completion begins
            self._next_page = sequence.kv_position // self.generator.page_size
        self.new_tokens += 1
        sequence.sequence_ids.append(next_token)
        sequence.kv_position += 1
        if sequence.kv_position % self.generator.page_size == 0:
            self.generator.pages_touched = True
        self.last_token_id = int(next_token)
        self.sampled.append(self.last_token_id)
        if self._draws is not None:
            self._draws.add(self.last_token_id)

    def _take_back(self, token_id: int) -> bool:
        """Undo the tokens that a banned string consists of, if this one completed one; returns whether it did."""
        if self.banned is None:
            return False
        # Tokens from `settled` on are undecided: a banned string may begin in them. `push` is shown those that it still
        # watches, with the new one, and says how many of the last are part of a string that is complete now.
        tail = [*self.sampled[self.settled : -1], token_id]
        may_stop = len(self.sampled) >= self.params.min_new_tokens
        count = self.banned.push(token_id, tail[-self.banned.undecided - 1 :], may_stop=may_stop)
        if not count:
            return False
        self.new_tokens -= count
        del self.sampled[-count:]
        del self.logprobs[self.new_sampled :]
        if self._draws is not None:
            self._draws.take_back(count)
        self._rewind(count)
        if self.banned.dead_end is not None:
            self.failure = InvalidRequest(self.banned.dead_end, param="banned_strings")
            self.end = End(EndCause.FAILURE)
        return True

    def _rewind(self, count: int) -> None:
        """Shorten the sequence, and forget what the library noted of the tokens that are gone."""
        self.generator.pages_touched = True
        sequence = self.sequences[0]
        shorten(sequence, count, self.generator.page_size)
        self.last_token_id = int(sequence.sequence_ids.torch()[0, -1])
        settings = self.gen_settings
        if settings.ngram_index > len(sequence.sequence_ids):  # DRY has counted some of them: it begins anew
            settings.ngram_trie, settings.ngram_index = None, 0
            settings.ngram_history.clear()

    def _name_pages(self) -> None:
        """Name the pages that are complete and will not be written again, so that a later prompt finds them."""
        # Going back to the settled tokens means to compute the last of them again.
        size = self.generator.page_size
        end = self.prompt_tokens + self.settled - 1
        while (self._next_page + 1) * size <= end:
            name_page(self.generator, self.sequences[0], self._next_page)
            self._next_page += 1
