"""Step reports: changes of resident pages, the whole truth, sequence numbers without gaps, bounded samples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Admission, AttemptFinished, AttemptStarted, RunningAttempt, StepSample
from actors.worker.commands import StepNews, WholeTruth
from actors.worker.step_reports import MAX_SAMPLES, ReportBuilder


def news(
    *, added: frozenset[bytes] = frozenset(), evicted: frozenset[bytes] = frozenset(), tokens: int = 0
) -> StepNews:
    return StepNews(
        sample=StepSample(0.01, 0, 1),
        started=[AttemptStarted("r", 1, 0)],
        first_tokens=[("r", 1)],
        finished=[AttemptFinished("r", 1, tokens)],
        pages_added=tuple(added),
        pages_evicted=tuple(evicted),
        generated_tokens=tokens,
    )


page_sets = st.frozensets(st.binary(min_size=1, max_size=1), max_size=8)


@given(st.lists(st.tuples(page_sets, st.booleans(), st.booleans()), max_size=20))
def test_a_listener_that_follows_the_reports_knows_the_pages(steps: list[tuple[frozenset[bytes], bool, bool]]) -> None:
    builder = ReportBuilder("w#1")
    there: frozenset[bytes] = frozenset()
    known: set[bytes] = set()
    expected_sequence = 1
    for pages, whole, take in steps:
        step = news(added=pages - there, evicted=there - pages)
        if whole:
            step.truth = WholeTruth(pages, ())
        there = pages
        builder.add(step)
        if not take:
            continue
        report = builder.take()
        assert report.sequence == expected_sequence
        expected_sequence += 1
        if report.full:
            known = set()
        known |= set(report.pages_added)
        known -= set(report.pages_evicted)
        assert known == pages
        assert not builder


def test_a_report_holds_everything_since_the_last_one() -> None:
    builder = ReportBuilder("w#1")
    for _ in range(3):
        builder.add(news(tokens=2))
    report = builder.take()
    assert report.generated_tokens == 6
    assert len(report.started) == len(report.first_tokens) == len(report.finished) == len(report.steps) == 3
    assert report.running is None
    builder.add(news())
    assert builder.take().generated_tokens == 0


def test_the_whole_truth_names_what_runs_and_what_started_after_it() -> None:
    admission = Admission(request_id="old", attempt=2, prompt_tokens=1, max_new_tokens=1)
    builder = ReportBuilder("w#1")
    builder.add(StepNews(truth=WholeTruth(frozenset(), (RunningAttempt(admission, 0),))))
    builder.add(StepNews(started=[AttemptStarted("new", 1, 0)]))
    report = builder.take()
    assert report.full
    assert report.running == (("old", 2), ("new", 1))


def test_a_report_is_urgent_when_something_changed_that_placement_depends_on() -> None:
    builder = ReportBuilder("w#1")
    builder.add(StepNews(sample=StepSample(0.01, 0, 1), generated_tokens=1))
    assert builder
    assert not builder.urgent
    builder.add(StepNews(pages_evicted=(b"x",)))
    assert builder.urgent
    builder.take()
    assert not builder.urgent


def test_samples_are_bounded() -> None:
    builder = ReportBuilder("w#1")
    for _ in range(MAX_SAMPLES + 10):
        builder.add(news())
    assert len(builder.take().steps) == MAX_SAMPLES
