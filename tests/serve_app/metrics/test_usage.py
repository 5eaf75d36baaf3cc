"""Usage: prompts once, completions all."""

from __future__ import annotations

from actors.results import Usage
from serve_app.api.usage import usage_model
from serve_app.metrics.usage import UsageSum


def test_a_prompt_counts_once_for_all_its_choices() -> None:
    usage = UsageSum(3, [10, 10, 10, 20, 20, 20])
    for choice in range(6):
        usage.end(choice, Usage(10 if choice < 3 else 20, choice, 5 + choice))
    model = usage_model(usage)
    assert model.prompt_tokens == 30
    assert model.completion_tokens == sum(range(6))
    assert model.total_tokens == 45
    assert model.prompt_tokens_details.cached_tokens == 5 + 8


def test_the_prompt_counts_before_anything_is_generated() -> None:
    assert usage_model(UsageSum(1, [100])).total_tokens == 100
    assert UsageSum(1).prompt_tokens == UsageSum(1).completion_tokens == 0


def test_a_stream_that_breaks_off_counts_as_far_as_it_came() -> None:
    usage = UsageSum(2, [10, 10])
    usage.stream(0, 3)
    usage.stream(1, 2)
    usage.stream(0, 1)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 6)
    usage.end(0, Usage(10, 5))
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 7)
