"""Calls into Ray Serve that have no time limit of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from actors.errors import ExlpoolError

T = TypeVar("T")


class ClusterSilent(ExlpoolError):
    """The cluster does not answer."""

    status = 503
    code = "cluster_silent"


def call_within(timeout_s: float, what: str, call: Callable[[], T]) -> T:
    """The result of `call()`, or what it raises. Serve waits for its controller without end, and a controller whose
    machine hangs never answers, so the call is made on a thread that is left behind when it takes too long.

    :raises ClusterSilent: after `timeout_s`; the call goes on, and nobody hears of its end.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"exlpool: {what}", daemon=True).start()
    try:
        return outcome.result(timeout_s)
    except TimeoutError:
        if outcome.done():  # the call's own
            raise
        raise ClusterSilent(f"The Ray cluster did not answer within {timeout_s:g} s ({what}).") from None
