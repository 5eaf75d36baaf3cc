"""The dashboard of a Ray cluster, as far as a deployment needs it. Every call ends within a time limit."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError
from requests.exceptions import HTTPError, Timeout

from actors.errors import ConfigurationError, ExlpoolError
from actors.ray_checks import require_cluster
from cluster.bounded import call_within
from cluster.deploy_status import cause

ASK_TIMEOUT_S = 15.0
DEPLOY_TIMEOUT_S = 120.0
"""The first deployment starts Serve itself."""
THIS_MACHINE = "auto"
T = TypeVar("T")


class DashboardUnreachable(ExlpoolError):
    """Nobody answers at the address, or not in time; a little later somebody may."""

    status = 503
    code = "dashboard_unreachable"


class _BoundedClient(ServeSubmissionClient):
    """Serve's own client, which would wait without end for whoever takes a connection and says nothing."""

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
        self._client = self._ask(lambda: _BoundedClient(address))

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

    def _ask(self, call: Callable[[], T]) -> T:
        """Make a call; whatever goes wrong with it becomes one sentence.

        All errors of `requests` are OSErrors: a connection that fails, a time limit, and an HTTP status; an answer
        that is not JSON is a ValueError too. Serve's client adds AuthenticationError, RuntimeError for a refusal, and
        KeyError or TypeError where the JSON is somebody else's.
        """
        try:
            return call()
        except AuthenticationError:
            raise self._wrong(
                "the cluster wants another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its own."
            ) from None
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

    :raises ConfigurationError: none runs here, or it has no dashboard.
    :raises ClusterSilent: it does not answer.
    """
    if address != THIS_MACHINE:
        return address
    require_cluster(address)
    try:
        return str(call_within(ASK_TIMEOUT_S, "the address of its dashboard", _ask_for_dashboard))
    except (ImportError, OSError, RuntimeError, ValueError):
        raise ConfigurationError(
            "The cluster on this machine does not say where its dashboard is: give its address, such as "
            "http://127.0.0.1:8265.",
            param="address",
        ) from None


def _ask_for_dashboard() -> str:
    from ray.dashboard.utils import ray_address_to_api_server_url

    return str(ray_address_to_api_server_url(THIS_MACHINE))


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
