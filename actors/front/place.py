"""One attempt's place at a worker, from the asking to the giving back, as its front knows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.messages import Admission, Grant

BLAME_S = 3.0
"""A dispatcher that is lost so soon after it was asked may be lost by what it was asked for. It places nothing in the
first moment after a restart (`actors.dispatcher.dispatcher`), so this is longer than that."""
MAX_BLAMED = 4
"""Losses of the dispatcher that one request may have been the cause of; then it is not asked for any more."""

MIN_TIMEOUT_S = 1e-3
"""What is left of a time limit that is over by now: a refusal is to say so, and not that the number is wrong."""


class Place:
    """Asked for, then granted or refused, and perhaps taken back; in the end released. Made by `DispatcherLink`."""

    def __init__(self, admission: Admission, on_release: Callable[[Place], None]) -> None:
        self.admission = admission
        self._noted_at_s = time.monotonic()
        """Since when the admission has grown older than it says."""
        self.asked = 0
        """Calls that have carried the admission."""
        self.blamed = 0
        """Losses of the dispatcher that came soon after one of them."""
        self._asked_at_s = 0.0
        self.over = False
        """Nothing has to be told to the dispatcher any more: it refused, took it back, or hears the end elsewhere."""
        self._decision: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._on_release = on_release
        self._output: AttemptOutput | None = None
        self._revoked: AttemptLost | None = None

    @property
    def undecided(self) -> bool:
        return not self._decision.done()

    async def granted(self) -> Grant:
        """Wait for the decision.

        :raises ExlpoolError: the refusal, as the type that fits.
        """
        return await self._decision

    def use(self, output: AttemptOutput) -> None:
        """From now on a revocation ends this output.

        :raises AttemptLost: it is taken back already.
        """
        if self._revoked is not None:
            raise self._revoked
        self._output = output

    def finish(self) -> None:
        """The attempt has its end, which the dispatcher hears from the worker."""
        self.over = True

    def release(self) -> None:
        """To be called once, on every way out. Gives the place back where the dispatcher does not know already."""
        if self._decision.done() and not self._decision.cancelled():
            self._decision.exception()  # noted as seen, for a caller that went away before it could look
        self._on_release(self)

    def note_asked(self) -> None:
        """A call carries the admission now."""
        self.asked += 1
        self._asked_at_s = time.monotonic()

    def note_loss(self) -> None:
        """The dispatcher is lost."""
        if self.asked and time.monotonic() - self._asked_at_s < BLAME_S:
            self.blamed += 1

    def grow_older(self) -> None:
        """Have the admission say how old it is by now, before it is told late."""
        now_s = time.monotonic()
        passed_s, self._noted_at_s = now_s - self._noted_at_s, now_s
        admission = self.admission
        if self.asked:  # its wait, and with it its time limit, go on from when it first asked
            self.admission = replace(
                admission, age_s=admission.age_s + passed_s, waited_s=admission.waited_s + passed_s
            )
        else:
            timeout_s = admission.timeout_s
            left_s = None if timeout_s is None else max(timeout_s - passed_s, MIN_TIMEOUT_S)
            self.admission = replace(admission, age_s=admission.age_s + passed_s, timeout_s=left_s)

    # What the link hears.

    def grant(self, grant: Grant) -> None:
        if self.undecided:
            self._decision.set_result(grant)

    def refuse(self, error: Exception) -> None:
        self.over = True
        if self.undecided:
            self._decision.set_exception(error)

    def revoke(self, reason: str, *, moved: bool = False) -> None:
        self.over = True
        self._revoked = AttemptLost(reason, moved=moved)
        if self._output is not None:
            self._output.lose(reason, moved=moved)

    def __repr__(self) -> str:
        state = "over" if self.over else "asked for" if self.undecided else "granted"
        return f"<Place of {self.admission.request_id}, attempt {self.admission.attempt}: {state}>"
