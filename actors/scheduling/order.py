"""The order in which requests of one tenant wait: by their places, the lowest first."""

from __future__ import annotations

from collections import OrderedDict

from actors.scheduling.records import Request


def put_in_place(requests: OrderedDict[str, Request], request: Request) -> None:
    """Add a request where its place says, among others that are in order.

    Most belong at the end, and those that ran before near the beginning: so its place is looked for from both ends at
    once, and only what stands between it and the nearer one is moved.
    """
    name = request.request_id
    before: list[str] = []
    behind: list[str] = []
    for first, last in zip(requests.values(), reversed(requests.values()), strict=True):
        if last.place < request.place:
            break
        behind.append(last.request_id)
        if request.place < first.place:
            requests[name] = request
            for other in (name, *reversed(before)):
                requests.move_to_end(other, last=False)
            return
        before.append(first.request_id)
    requests[name] = request
    for other in reversed(behind):
        requests.move_to_end(other)
