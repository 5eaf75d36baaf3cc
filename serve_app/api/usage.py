"""Usage as OpenAI's clients know it."""

from __future__ import annotations

from serve_app.api.schemas.common import PromptTokensDetails, UsageModel
from serve_app.metrics.usage import UsageSum


def usage_model(usage: UsageSum) -> UsageModel:
    return UsageModel(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
    )
