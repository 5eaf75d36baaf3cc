"""What Serve says of an application, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ray.serve.schema import ApplicationStatus

FAILED = frozenset({ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY})
_RAISED = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Exceeded|Died|Worker|Request)): (.+)$", re.MULTILINE)


def cause(message: str, deployments: Mapping[str, Any] | None = None) -> str:
    """The error at the root of a failure: the last one that a traceback names, else the message as it is."""
    texts = [_message(deployment) for deployment in (deployments or {}).values()] + [message]
    for text in texts:
        raised = _RAISED.findall(text)
        if raised:
            return f"{raised[-1][0]}: {raised[-1][1]}"
    return " ".join(message.split()) or "Serve gives no reason"


def _message(deployment: Any) -> str:
    text = deployment.get("message", "") if isinstance(deployment, Mapping) else getattr(deployment, "message", "")
    return str(text or "")
