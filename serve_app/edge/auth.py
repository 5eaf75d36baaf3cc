"""Who asks: finds the caller of a key, holds it to its rates, and keeps strangers out where there are no keys."""

from __future__ import annotations

import time
from contextvars import ContextVar
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.errors import ExlpoolError
from serve_app.caller import ANYBODY, Caller
from serve_app.edge.errors import InvalidApiKey, RateLimited, RemoteWithoutKeys
from serve_app.edge.keys import KeyEntry, KeyRing
from serve_app.edge.rates import Account
from serve_app.edge.request_id import path_of
from serve_app.errors import error_response
from serve_app.metrics.observer import RequestRecord, Unobserved

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Answered to everybody: load balancers have no key."""

_account: ContextVar[Account | None] = ContextVar("account", default=None)
"""The account of the request that the running task works for."""


class Accounts:
    """What every key has used in this process, kept over reloads of the keys."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def of(self, entry: KeyEntry, now_s: float) -> Account:
        account = self._accounts.get(entry.sha256)
        rates = (entry.requests_per_minute, entry.tokens_per_minute)
        if account is None or account.rates != rates:
            account = self._accounts[entry.sha256] = Account(*rates, now_s)
        return account

    def keep_only(self, ring: KeyRing) -> None:
        known = {entry.sha256 for entry in ring.entries}
        self._accounts = {digest: account for digest, account in self._accounts.items() if digest in known}

    def __repr__(self) -> str:
        return f"<Accounts of {len(self._accounts)} keys>"


class TokenCharges(Unobserved):
    """Charges the tokens of every request to the account of its key."""

    def ended(self, record: RequestRecord) -> None:
        account = _account.get()
        if account is not None:
            account.charge(record.prompt_tokens + record.completion_tokens, time.monotonic())


class Auth:
    """`keys` None: nobody needs one, but only this machine is answered, unless `remote_without_keys`."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing | None, accounts: Accounts, remote_without_keys: bool) -> None:
        self._app = app
        self._keys = keys
        self._accounts = accounts
        self._remote_without_keys = remote_without_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_of(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            caller, account = self._admit(scope)
        except ExlpoolError as error:
            headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
            await error_response(error, headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        token = _account.set(account)
        try:
            await self._app(scope, receive, send)
        finally:
            _account.reset(token)

    def _admit(self, scope: Scope) -> tuple[Caller, Account | None]:
        if self._keys is None:
            if not self._remote_without_keys and not _is_local(scope):
                raise RemoteWithoutKeys(
                    "This server has no keys, so it answers its own machine only: give it a `keys_file`, or set "
                    "`remote_without_keys`."
                )
            return ANYBODY, None
        key = _shown_key(Headers(scope=scope))
        if not key:
            raise InvalidApiKey("Show an API key: `Authorization: Bearer KEY`.")
        entry = self._keys.find(key)
        if entry is None:
            raise InvalidApiKey("Incorrect API key provided: this server does not know it.")
        now_s = time.monotonic()
        account = self._accounts.of(entry, now_s)
        wait_s = account.enter(now_s)
        if wait_s > 0.0:
            raise RateLimited("The rate of this key is used up.", retry_after_s=wait_s)
        return Caller(tenant=entry.tenant, max_priority=entry.max_priority), account


def _shown_key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return headers.get("x-api-key", "").strip()


def _is_local(scope: Scope) -> bool:
    """Both ends of the connection are this machine, and the client calls it by a local name: a page in a browser that
    was sent here by a foreign name is not let in. What is not known (a Unix socket) is local."""
    ends = [end[0] for end in (scope.get("client"), scope.get("server")) if end is not None]
    name = Headers(scope=scope).get("host", "localhost")
    return all(_is_loopback(host) for host in ends) and _is_loopback(_without_port(name))


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
