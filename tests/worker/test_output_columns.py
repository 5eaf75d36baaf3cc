"""Columns of step outputs: what was put in comes out, joined in order."""

from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Finished
from actors.results import FinishReason, TokenLogprobs
from actors.worker.output_columns import OutputColumns

entries = st.lists(
    st.tuples(st.integers(0, 5), st.text(max_size=5), st.lists(st.integers(0, 9), max_size=3).map(tuple)), max_size=20
)
END = Finished(reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=2)


def columns(items: list[tuple[int, str, tuple[int, ...]]]) -> OutputColumns:
    result = OutputColumns()
    for ticket, text, token_ids in items:
        result.add(ticket, text, token_ids)
    return result


@given(first=entries, second=entries)
def test_steps_join_in_order(first: list[tuple[int, str, tuple[int, ...]]], second: list) -> None:  # type: ignore[type-arg]
    joined = columns(first)
    joined.extend(columns(second))
    message = joined.message()
    assert list(zip(message.tickets, message.texts, message.token_ids, strict=True)) == first + second
    assert bool(joined) == bool(first + second)


def test_logprobs_travel_only_when_somebody_asked() -> None:
    plain = columns([(1, "a", (3,))])
    assert plain.message().logprobs == ()
    values = (TokenLogprobs(4, -0.5),)
    plain.add(2, "b", (4,), values)
    assert plain.message().logprobs == ((), values)


def test_an_end_alone_is_worth_sending() -> None:
    only_end = OutputColumns()
    assert not only_end
    only_end.finish(7, END)
    assert only_end
    assert only_end.message().finished == ((7, END),)
