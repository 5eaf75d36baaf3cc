"""Step reports: differences of resident pages, sequence numbers without gaps, bounded samples."""

from hypothesis import given
from hypothesis import strategies as st

from actors.messages import AttemptFinished, AttemptStarted, StepSample
from actors.worker.engine_thread import StepNews
from actors.worker.step_reports import MAX_SAMPLES, ReportBuilder


def news(pages: frozenset[bytes] | None = None, *, full: bool = False, tokens: int = 0) -> StepNews:
    return StepNews(
        outputs={},
        sample=StepSample(0.01, 0, 1),
        started=[AttemptStarted("r", 1, 0)],
        first_tokens=[("r", 1)],
        finished=[AttemptFinished("r", 1, tokens)],
        resident_pages=pages,
        full=full,
        free_pages=3,
        active_jobs=1,
        generated_tokens=tokens,
    )


page_sets = st.frozensets(st.binary(min_size=1, max_size=1), max_size=8)


@given(st.lists(st.tuples(page_sets, st.booleans(), st.booleans()), max_size=20))
def test_a_listener_that_follows_the_reports_knows_the_pages(steps: list[tuple[frozenset[bytes], bool, bool]]) -> None:
    builder = ReportBuilder("w#1")
    known: set[bytes] = set()
    expected_sequence = 1
    for pages, full, take in steps:
        builder.add(news(pages, full=full))
        if not take:
            continue
        report = builder.take()
        assert report.sequence == expected_sequence
        expected_sequence += 1
        if report.full:
            known = set()
        known |= set(report.pages_added)
        known -= set(report.pages_evicted)
        assert known == builder.pages == pages
        assert not builder


def test_a_report_holds_everything_since_the_last_one() -> None:
    builder = ReportBuilder("w#1")
    for _ in range(3):
        builder.add(news(tokens=2))
    report = builder.take()
    assert report.generated_tokens == 6
    assert len(report.started) == len(report.first_tokens) == len(report.finished) == len(report.steps) == 3
    builder.add(news())
    assert builder.take().generated_tokens == 0


def test_samples_are_bounded() -> None:
    builder = ReportBuilder("w#1")
    for _ in range(MAX_SAMPLES + 10):
        builder.add(news())
    assert len(builder.take().steps) == MAX_SAMPLES
