"""The dashboard of a Ray cluster, as far as a deployment needs it. Every call ends within a time limit."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError
from requests.exceptions import HTTPError, Timeout

from actors.errors import ConfigurationError, ExlpoolError
from actors.ray_checks import THIS_MACHINE, TOKEN_CURE, require_cluster
from actors.ray_control import ControlService
from actors.ray_token import RayToken, find_token, tokens_forbidden
from cluster.deploy_status import cause

ASK_TIMEOUT_S = 15.0
DEPLOY_TIMEOUT_S = 120.0
"""The first deployment starts Serve itself."""
T = TypeVar("T")


class DashboardUnreachable(ExlpoolError):
    """Nobody answers at the address, or not in time; a little later somebody may."""

    status = 503
    code = "dashboard_unreachable"


class _Client(ServeSubmissionClient):
    """Serve's own client, which would wait without end for whoever takes a connection and says nothing, and shows the
    token of the cluster that this process is connected to."""

    def __init__(self, address: str, token: RayToken | None) -> None:
        # A header that is not sent keeps Serve's client from showing a token of its own choice.
        super().__init__(address, headers=dict([token.header]) if token is not None else {"Authorization": None})

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        timeout_s = ASK_TIMEOUT_S if method == "GET" else DEPLOY_TIMEOUT_S
        return super()._do_request(method, endpoint, timeout=timeout_s, **options)


class Dashboard:
    """A dashboard that has answered. Each method, and making one, raises

    :raises ConfigurationError: the address is wrong, what answers there is no dashboard, or it refuses.
    :raises DashboardUnreachable: nobody answers in time.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        if not _is_http_url(address):
            raise self._wrong('that is no address of a dashboard, such as http://127.0.0.1:8265, and not "auto".')
        self._client = self._ask(self._connect)

    def applications(self) -> dict[str, Any]:
        """What Serve says of every application, by name."""
        applications: dict[str, Any] = self.details().get("applications", {})
        return applications

    def details(self) -> dict[str, Any]:
        """All that Serve says: of its applications, of its proxies, and where it listens."""
        found: dict[str, Any] = self._ask(self._client.get_serve_details)
        return found

    def deploy(self, document: dict[str, Any]) -> None:
        """Hand a configuration over."""
        self._ask(lambda: self._client.deploy_applications(document))

    def _connect(self) -> _Client:
        """The token is shown only to a dashboard that asks for one.

        :raises ConfigurationError: it wants a token, and there is none here, or a wrong one, or none may be shown.
        """
        try:
            return _Client(self.address, None)
        except AuthenticationError:
            if tokens_forbidden():
                raise self._wrong("it wants a token, which this process may not show: unset RAY_AUTH_MODE.") from None
        token = find_token()
        if token is None:
            raise self._wrong(f"it wants a token, and there is none here{TOKEN_CURE}")
        try:
            return _Client(self.address, token)
        except AuthenticationError:
            raise self._wrong(f"it wants another token than that of {token.source}{TOKEN_CURE}") from None

    def _ask(self, call: Callable[[], T]) -> T:
        """Make a call; whatever goes wrong with it becomes one sentence.

        All errors of `requests` are OSErrors: a connection that fails, a time limit, and an HTTP status; an answer
        that is not JSON is a ValueError too. Serve's client adds AuthenticationError, RuntimeError for a refusal, and
        KeyError or TypeError where the JSON is somebody else's.
        """
        try:
            return call()
        except AuthenticationError:
            raise self._wrong(f"it takes the token no more{TOKEN_CURE}") from None
        except RuntimeError as error:
            raise self._wrong(f"it refuses: {cause(str(error))}") from None
        except (ValueError, KeyError, TypeError, HTTPError):
            raise self._wrong("what answers there is no Ray dashboard.") from None
        except OSError as error:
            raise DashboardUnreachable(
                f"Cannot deploy to {self.address}: {_why_silent(error)}. Give the address of the cluster's dashboard "
                "with --address or RAY_DASHBOARD_ADDRESS."
            ) from None

    def _wrong(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"Cannot deploy to {self.address}: {why}", param="address")


def dashboard_url(address: str) -> str:
    """The URL of a dashboard: `address` itself, or for "auto" that of the cluster which runs on this machine.

    :raises ConfigurationError: none runs here, it does not let this process in, or it has no dashboard.
    """
    return dashboard_of(address) if address == THIS_MACHINE else address


def dashboard_of(cluster_address: str) -> str:
    """The URL of the dashboard of the cluster at HOST:PORT, or "auto".

    :raises ConfigurationError: none is there, it does not let this process in, or it has no dashboard.
    """
    cluster = require_cluster(cluster_address)
    try:
        with ControlService(cluster.address) as service:
            found = service.dashboard(cluster.token)
    except grpc.RpcError:
        found = None
    if found is None:
        raise ConfigurationError(
            f"The cluster at {cluster_address!r} does not say where its dashboard is: give its address, such as "
            "http://127.0.0.1:8265.",
            param="address",
        )
    return f"http://{found}"


def _is_http_url(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        return False


def _why_silent(error: OSError) -> str:
    """The system's own words, which `requests` and Serve's client have wrapped several times."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, Timeout):
            return "what listens there gives no answer"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__context__
    return "nobody answers there"
