"""Who asks: finds the caller of a key, holds it to its rates, and keeps strangers out where there are no keys."""

from __future__ import annotations

from contextvars import ContextVar
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.errors import ExlpoolError
from serve_app.caller import ANYBODY, OPEN_PATHS, Caller, mark_keyed
from serve_app.edge.errors import InvalidApiKey, RateLimited, RemoteWithoutKeys
from serve_app.edge.keys import KeyEntry, KeyRing
from serve_app.edge.rate_book import KeyRates
from serve_app.edge.rate_ticket import Rates, RateTicket
from serve_app.edge.request_id import path_of
from serve_app.errors import error_response
from serve_app.metrics.observer import RequestRecord, Unobserved

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
_ticket: ContextVar[RateTicket | None] = ContextVar("ticket", default=None)
"""That of the request that the running task works for."""


class TokenCharges(Unobserved):
    """Tells every request's ticket what the request has taken of the rate of its key."""

    def ended(self, record: RequestRecord) -> None:
        ticket = _ticket.get()
        if ticket is not None:
            ticket.used_tokens = record.prompt_tokens + record.completion_tokens


class Auth:
    """`keys` None: nobody needs one, but only this machine is answered, unless `remote_without_keys`."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing | None, rates: Rates, remote_without_keys: bool) -> None:
        self._app = app
        self._keys = keys
        self._rates = rates
        self._remote_without_keys = remote_without_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        mark_keyed(scope, self._keys is not None)
        if (path_of(scope).rstrip("/") or "/") in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            entry = self._entry(scope)
        except ExlpoolError as error:
            headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
            await error_response(error, headers)(scope, receive, send)
            return
        if entry is None:
            scope["state"]["caller"] = ANYBODY
            await self._app(scope, receive, send)
        else:
            await self._answer(entry, scope, receive, send)

    async def _answer(self, entry: KeyEntry, scope: Scope, receive: Receive, send: Send) -> None:
        """Whichever way this is left, the ticket is closed."""
        rates = KeyRates(entry.sha256, entry.requests_per_minute, entry.tokens_per_minute)
        if rates.requests is None and rates.tokens is None:
            scope["state"]["caller"] = Caller(entry.tenant, entry.max_priority)
            await self._app(scope, receive, send)
            return
        ticket = RateTicket(self._rates, rates)
        send = _with_rates(ticket, send)
        token = _ticket.set(ticket)
        try:
            refusal = await _refusal(ticket)
            if refusal is not None:
                await error_response(refusal)(scope, receive, send)
                return
            budget = None if rates.tokens is None else ticket
            scope["state"]["caller"] = Caller(entry.tenant, entry.max_priority, budget)
            await self._app(scope, receive, send)
        finally:
            _ticket.reset(token)
            ticket.close()

    def _entry(self, scope: Scope) -> KeyEntry | None:
        """That of the key which the client shows; None: nobody needs one.

        :raises ExlpoolError: the client is not let in.
        """
        if self._keys is None:
            if not self._remote_without_keys and not _is_local(scope):
                raise RemoteWithoutKeys(
                    "This server has no keys, so it answers its own machine only: give it a `keys_file`, or set "
                    "`remote_without_keys`."
                )
            return None
        key = _shown_key(Headers(scope=scope))
        if not key:
            raise InvalidApiKey("Show an API key: `Authorization: Bearer KEY`.")
        entry = self._keys.find(key)
        if entry is None:
            raise InvalidApiKey("Incorrect API key provided: this server does not know it.")
        return entry


async def _refusal(ticket: RateTicket) -> RateLimited | None:
    try:
        await ticket.enter()
    except RateLimited as error:
        return error
    return None


def _with_rates(ticket: RateTicket, send: Send) -> Send:
    """Every answer tells how it stands with the rates."""

    async def send_told(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *ticket.headers()]}
        await send(message)

    return send_told


def _shown_key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return headers.get("x-api-key", "").strip()


def _is_local(scope: Scope) -> bool:
    """Both ends of the connection are this machine, and the client calls it by a local name: a page in a browser that
    was sent here by a foreign name is not let in. What is not known (a Unix socket) is local.

    "Any address", 0.0.0.0, is a local name for programs only: browsers hold it for a foreign one, and let pages of
    strangers ask there what they may not ask at 127.0.0.1.
    """
    ends = [end[0] for end in (scope.get("client"), scope.get("server")) if end is not None]
    headers = Headers(scope=scope)
    name = _without_port(headers.get("host", "localhost"))
    called_locally = _is_loopback(name) or (name in ANY_ADDRESS and not _is_of_page(headers))
    return called_locally and all(_is_loopback(host) for host in ends)


def _is_of_page(headers: Headers) -> bool:
    """Whether a page in a browser asks: the browser says so, and no page can keep it from that."""
    return "origin" in headers or headers.get("sec-fetch-site", "none") != "none"


def _without_port(name: str) -> str:
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.startswith("/")
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
