"""The library's sampler settings for one job, neutral unless the request asks otherwise."""

from __future__ import annotations

from exllamav2.generator import ExLlamaV2Sampler

from actors.sampling import SamplingParams

MAX_CANDIDATES = 500
"""Bound on `top_k` where a sampler would otherwise sort the whole vocabulary (15 ms a token at 128k). It is also the
largest value for which the library takes candidates with a heap; above, its quicksort is quadratic on equal logits."""

GREEDY_TEMPERATURE = 0.01
"""Below this the library's own sampler is greedy."""


def sampler_settings(params: SamplingParams) -> ExLlamaV2Sampler.Settings:
    """Fresh settings: they hold state of the job (mirostat, DRY), so they are never shared.

    Bias and penalties stay neutral here; `PoolJob` applies them, since the library would count a presence or a
    frequency over the prompt too.
    """
    settings = ExLlamaV2Sampler.Settings(
        token_repetition_penalty=1.0,
        temperature=params.temperature,
        top_k=top_k_of(params),
        top_p=params.top_p,
        top_a=params.top_a,
        min_p=params.min_p,
        tfs=params.tfs,
        typical=params.typical_p,
        skew=params.skew,
        temperature_last=params.temperature_last,
        smoothing_factor=params.smoothing_factor,
        min_temp=params.min_temp,
        max_temp=params.max_temp,
        temp_exponent=params.temp_exponent,
        mirostat=params.mirostat,
        mirostat_tau=params.mirostat_tau,
        mirostat_eta=params.mirostat_eta,
        xtc_probability=params.xtc_probability,
        xtc_threshold=params.xtc_threshold,
        dry_multiplier=params.dry_multiplier,
        dry_base=params.dry_base,
        dry_allowed_length=params.dry_allowed_length,
        dry_range=params.dry_range,
    )
    if is_greedy(params):
        settings.temperature, settings.top_k, settings.top_p = 1.0, 1, 0.0
        settings.temperature_last = settings.mirostat = False
        settings.min_temp = settings.max_temp = settings.smoothing_factor = settings.xtc_probability = 0.0
    return settings


def is_greedy(params: SamplingParams) -> bool:
    """A nucleus of nothing (top_p 0), or of none but the most likely (min_p 1), is the most likely token alone; the
    library would take either for "off"."""
    alone = params.top_k == 1 or params.top_p == 0.0 or params.min_p == 1.0
    return alone or params.temperature < GREEDY_TEMPERATURE


def top_k_of(params: SamplingParams) -> int:
    """`top_k` as the library gets it; 0 is off."""
    # These three look at all candidates in order; without a bound that is the whole vocabulary.
    sorts = 0.0 < params.top_p < 1.0 or 0.0 < params.tfs < 1.0 or 0.0 < params.typical_p < 1.0
    if sorts:
        return min(params.top_k or MAX_CANDIDATES, MAX_CANDIDATES)
    return params.top_k
