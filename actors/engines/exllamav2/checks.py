"""What only ExLlamaV2 refuses, before it submits a job: one bad job inside the library takes its batch down."""

from __future__ import annotations

from actors.errors import InvalidRequest
from actors.sampling import PARAMETER_NAMES, SamplingParams

DRY_MAX_NGRAM = 20
"""`dry_max_ngram` of the library; it asserts that a bounded `dry_range` is longer."""


def supported_parameters(*, drafting: bool) -> frozenset[str]:
    """Parameters that are honoured. Going back over tokens (banned strings) or healing one cannot be combined with
    drafted tokens in the library's loop."""
    return PARAMETER_NAMES - {"banned_strings", "token_healing"} if drafting else PARAMETER_NAMES


def check_dry_range(params: SamplingParams) -> None:
    """:raises InvalidRequest: a bound that the library would fail an assertion over."""
    if 0 < params.dry_range <= DRY_MAX_NGRAM:
        raise InvalidRequest(f"dry_range is 0 or above {DRY_MAX_NGRAM}, not {params.dry_range}.", param="dry_range")
