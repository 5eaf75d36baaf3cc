"""What fronts that run say of the settings they were given.

Serve takes an application for running whose front has refused a `user_config` and goes on as before, so only the front
itself knows. It is asked where that is simple: on the machine of the cluster's dashboard.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from cluster.ready import ask_ready
from cluster.urls import local_url

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
"""Serve's own, where a document names none."""


def refused_settings(document: Mapping[str, Any], dashboard: str) -> dict[str, str]:
    """By the name of an application, why its settings are not those of the document, as far as it can be asked."""
    if not _is_this_machine(urllib.parse.urlsplit(dashboard).hostname or ""):
        return {}
    refusals = {}
    for application in document["applications"]:
        try:
            told = ask_ready(_url(document, application)).get("refused_settings")
        except (OSError, ValueError, AttributeError):  # it is not ours, or listens where only others reach it
            continue
        if told:
            refusals[application["name"]] = str(told)
    return refusals


def _url(document: Mapping[str, Any], application: Mapping[str, Any]) -> str:
    listen = (application.get("args") or {}).get("listen")
    http = document.get("http_options") or {}
    if listen is not None:
        place, secure, prefix = listen, listen.get("tls_certificate"), ""
    else:
        place, secure, prefix = http, http.get("ssl_certfile"), application.get("route_prefix") or ""
    host, port = str(place.get("host") or DEFAULT_HOST), place.get("port") or DEFAULT_PORT
    return local_url(host, port, tls=bool(secure)) + prefix.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
