"""Waiting requests by size: who is seen behind the window, in which order, and how many."""

from __future__ import annotations

from dataclasses import dataclass

from actors.scheduling.lanes import MOST_SEEN, Lanes
from actors.scheduling.records import Request
from tests.scheduling.pool import request


@dataclass
class Tenant:
    counter: float = 0.0


@dataclass
class OneWorker:
    """Room for requests of so many tokens, for all of them at once."""

    most_tokens: int
    was_cut_off: bool = False

    def fits(self, request: Request) -> bool:
        return request.size_tokens <= self.most_tokens

    def cut_off(self) -> None:
        self.was_cut_off = True


SMALL, LARGE = 256, 4096  # whole pages, by which sizes are told apart
ROUND = 7


def lanes_of(tenants: dict[str, Tenant], *requests: Request) -> Lanes:
    lanes = Lanes(tenants)
    for place, one in enumerate(requests):
        one.place = 0.0, place
        lanes.push(one)
    lanes.validate()
    return lanes


def named(name: str, tokens: int = SMALL, tenant: str = "a") -> Request:
    return request(name, tokens - 100, 100, tenant=tenant)


def seen(lanes: Lanes, room: OneWorker, most: int = 16, round_: int = ROUND) -> list[str]:
    return [one.request_id for one in lanes.fitting(most, round_, room)]


def test_what_fits_is_found_behind_what_does_not() -> None:
    large = (named(f"large{i}", LARGE) for i in range(100))
    lanes = lanes_of({"a": Tenant()}, *large, named("first"), named("second"))
    room = OneWorker(SMALL)
    assert seen(lanes, room) == ["first", "second"]
    assert not room.was_cut_off


def test_no_more_are_looked_at_than_may_be_and_that_is_told() -> None:
    lanes = lanes_of({"a": Tenant()}, *(named(f"r{i}") for i in range(20)))
    room = OneWorker(SMALL)
    assert seen(lanes, room) == [f"r{i}" for i in range(16)]
    assert room.was_cut_off


def test_who_was_served_least_is_seen_first_in_every_lane() -> None:
    tenants = {"a": Tenant(2.0), "b": Tenant(1.0)}
    lanes = lanes_of(tenants, named("a1"), named("b1", tenant="b"), named("b2", 2 * SMALL, tenant="b"))
    assert seen(lanes, OneWorker(LARGE)) == ["b1", "b2", "a1"]
    tenants["b"].counter = 3.0
    assert seen(lanes, OneWorker(LARGE), round_=ROUND + 1) == ["a1", "b1", "b2"]


def test_a_tenant_of_whom_many_were_seen_makes_room_for_the_next_and_comes_again_in_another_round() -> None:
    tenants = {"a": Tenant(0.0), "b": Tenant(1.0)}
    many = [named(f"a{i}") for i in range(MOST_SEEN + 1)]
    lanes = lanes_of(tenants, *many, named("b1", tenant="b"))
    for one in many[:MOST_SEEN]:
        one.looked_at = ROUND
    assert seen(lanes, OneWorker(SMALL)) == ["b1"]
    lanes.validate()
    assert seen(lanes, OneWorker(SMALL), most=1, round_=ROUND + 1) == ["a0"]


def test_a_tenant_who_was_passed_over_and_does_not_wait_any_more_is_not_listed_again() -> None:
    tenants = {"a": Tenant(0.0), "b": Tenant(1.0)}
    many = [named(f"a{i}") for i in range(MOST_SEEN)]
    lanes = lanes_of(tenants, *many, named("b1", tenant="b"))
    for one in many:
        one.looked_at = ROUND
    look = lanes.fitting(16, ROUND, OneWorker(SMALL))
    assert next(look).request_id == "b1"
    for one in many:
        lanes.remove(one)
    assert list(look) == []
    assert seen(lanes, OneWorker(SMALL), round_=ROUND + 1) == ["b1"]
    lanes.validate()
