"""The diary: bounded, and readable."""

from __future__ import annotations

from actors.scheduling.journal import MAX_ENTRIES, Entry, Journal


def test_lines_are_kept_in_order_and_written_out_when_read() -> None:
    journal = Journal()
    journal.note("r", 1.0, "queued as {}", "batch")
    journal.note("s", 1.5, "queued")
    journal.note("r", 2.25, "granted on {} after {:.1f} s", "a#1", 1.25)
    assert journal.story("r") == (Entry(1.0, "queued as batch"), Entry(2.25, "granted on a#1 after 1.2 s"))
    assert str(journal.story("r")[1]) == "2.250 s: granted on a#1 after 1.2 s"
    assert journal.story("nobody") == ()


def test_braces_in_what_others_said_are_harmless() -> None:
    journal = Journal()
    journal.note("r", 0.0, "worker is down: {}", "{0} {missing} {")
    assert journal.story("r")[0].what == "worker is down: {0} {missing} {"


def test_who_was_silent_longest_is_forgotten_first() -> None:
    journal = Journal(max_requests=2)
    journal.note("r", 0.0, "queued")
    journal.note("s", 1.0, "queued")
    journal.note("r", 2.0, "granted")
    journal.note("t", 3.0, "queued")
    assert len(journal) == 2
    assert journal.story("s") == ()
    assert len(journal.story("r")) == 2


def test_of_a_long_story_the_latest_lines_are_kept() -> None:
    journal = Journal()
    for number in range(MAX_ENTRIES + 5):
        journal.note("r", float(number), "line {}", number)
    story = journal.story("r")
    assert len(story) == MAX_ENTRIES
    assert (story[0].what, story[-1].what) == ("line 5", f"line {MAX_ENTRIES + 4}")
