"""A front on this machine, asked whether it can answer."""

from __future__ import annotations

import json
import ssl
import urllib.request
from typing import Any

ASK_S = 5.0


def ask_ready(url: str) -> Any:
    """What it says at `/ready`: a JSON document. With TLS any certificate will do: nothing secret is said, and it may
    be for the name that others use.

    :raises OSError: nobody answers, or with an error (`urllib.error.HTTPError`).
    :raises ValueError: what answers is no JSON.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    with urllib.request.build_opener(*handlers).open(f"{url}/ready", timeout=ASK_S) as answer:
        return json.load(answer)
