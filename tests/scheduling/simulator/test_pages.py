"""The page table by name: ExLlamaV2's rules, whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.scheduling.simulator.pages import NamedPages
from tests.properties import examples


def named(*numbers: int) -> tuple[bytes, ...]:
    return tuple(bytes([number]) for number in numbers)


def test_a_prompt_is_found_again_while_it_runs_and_after() -> None:
    pages = NamedPages(10)
    assert pages.allocate(named(1, 2), 4) == 0
    assert pages.pages_to_take(named(1, 2), 4) == 2, "two of them are referenced"
    assert pages.allocate(named(1, 2), 4) == 2
    assert pages.free_pages == 4
    pages.release(named(1, 2), 2, ())
    pages.release(named(1, 2), 2, ())
    assert pages.free_pages == 10
    assert pages.pages_to_take(named(1, 2), 4) == 4, "resident pages without a reference are taken anew"
    assert pages.resident(named(1, 2, 3)) == 2


def test_the_least_recently_used_page_is_evicted_first_and_never_one_of_the_job() -> None:
    pages = NamedPages(3)
    for number in (1, 2, 3):
        pages.allocate(named(number), 1)
        pages.release(named(number), 0, ())
    pages.take_changes()
    assert pages.allocate(named(1), 2) == 1
    assert pages.take_changes() == ((), named(2))
    assert pages.resident(named(1)) == 1


def test_the_completion_stays_once_its_pages_are_full() -> None:
    pages = NamedPages(4)
    pages.allocate(named(1), 4)
    pages.release(named(1), 3, named(2, 3))
    assert pages.resident(named(1, 2, 3)) == 3
    assert pages.take_changes() == (named(1, 2, 3), ())


def test_a_page_that_comes_and_goes_between_two_reports_is_told_in_its_latest_role() -> None:
    pages = NamedPages(1)
    pages.allocate(named(1), 1)
    pages.release(named(1), 0, ())
    pages.allocate(named(2), 1)
    pages.release(named(2), 0, ())
    assert pages.take_changes() == (named(2), named(1))
    pages.allocate(named(1), 1)
    pages.release(named(1), 0, ())
    pages.allocate(named(2), 1)
    assert pages.take_changes() == (named(2), named(1))


@examples(60)
@given(st.data())
def test_pages_are_conserved_and_reports_tell_what_is_there(data: st.DataObject) -> None:
    pages = NamedPages(12)
    running: list[tuple[tuple[bytes, ...], int]] = []
    told: set[bytes] = set()
    for _ in range(data.draw(st.integers(1, 40))):
        ends = data.draw(st.booleans())
        if ends and running:
            held, private = running.pop(data.draw(st.integers(0, len(running) - 1)))
            family = held[0][0] if held else 0
            grown = tuple(bytes([family, page]) for page in range(len(held), len(held) + data.draw(st.integers(0, 2))))
            pages.release(held, private, grown[:private])
        else:
            family, depth = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))
            wanted = tuple(bytes([family, page]) for page in range(depth))
            total = depth + data.draw(st.integers(1, 3))
            if pages.pages_to_take(wanted, total) <= pages.free_pages:
                expected = pages.resident(wanted)
                assert pages.allocate(wanted, total) == expected
                running.append((wanted, total - depth))
        private = sum(count for _, count in running)
        referenced = {page for held, _ in running for page in held}
        assert set(pages.referenced) == referenced
        assert sum(pages.referenced.values()) == sum(len(held) for held, _ in running)
        assert pages.blank_pages + len(pages.idle) + len(pages.referenced) + private == 12
        if data.draw(st.booleans()):
            added, evicted = pages.take_changes()
            assert not set(added) & set(evicted)
            told = (told | set(added)) - set(evicted)
            assert told == set(pages.referenced) | set(pages.idle)
