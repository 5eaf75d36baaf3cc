"""One attempt's place at a worker, from the asking to the giving back, as its front knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.messages import Admission, Grant

MAX_ASKED = 4
"""Times that a place is asked for again because the dispatcher was lost; then the request may be the cause."""


class Place:
    """Asked for, then granted or refused, and perhaps taken back; in the end released. Made by `DispatcherLink`."""

    def __init__(self, admission: Admission, on_release: Callable[[Place], None]) -> None:
        self.admission = admission
        self.asked = 0
        """Calls that have carried the admission."""
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
