"""A few tokens before the first request: what a device does only once (load kernels, choose algorithms, grow its
allocator) is done by then."""

from __future__ import annotations

from actors.engines.base import Ended, Engine, EngineJob
from actors.messages import WorkerLimits
from actors.paging.hashes import page_hashes
from actors.results import FinishReason
from actors.sampling import SamplingParams

WARM_UP_TOKENS = 8
PROMPT_TOKENS = 64


def generate_once(engine: Engine, limits: WorkerLimits) -> None:
    """Have an engine that has just been loaded generate, greedily and by sampling, side by side. It is to be `reset`
    afterwards, so that nothing of it is left.

    :raises Exception: what a job or a step failed with.
    """
    prompt = (limits.vocab_size // 2,) * min(PROMPT_TOKENS, limits.context_tokens // 2)
    tokens = min(WARM_UP_TOKENS, limits.context_tokens - limits.reserve_tokens - len(prompt))
    for job_id, temperature in enumerate((0.0, 1.0)):
        engine.submit(
            EngineJob(
                job_id=job_id,
                token_ids=prompt,
                page_hashes=page_hashes(prompt),
                max_new_tokens=tokens,
                seed=0,
                params=SamplingParams(temperature=temperature, ignore_eos=True),
            )
        )
    while engine.has_work():
        for event in engine.step():
            if isinstance(event, Ended) and event.reason is FinishReason.ERROR and event.error is not None:
                raise event.error
