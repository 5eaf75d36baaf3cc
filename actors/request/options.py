"""What a caller asks for beside the prompt. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.errors import InvalidRequest
from actors.request.chat_template import require_free_names
from actors.request.prompt import TemplateOptions
from actors.results import Priority
from actors.sampling import SamplingParams, sampling_params

MAX_TENANT_CHARACTERS = 128
_PRIORITIES = tuple(priority.value for priority in Priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """Everything of a request but its prompt. `timeout_s` bounds its whole life, from the call to the last token."""

    params: SamplingParams = field(default_factory=SamplingParams)
    priority: Priority = Priority.DEFAULT
    tenant: str = ""
    timeout_s: float | None = None
    spent_s: float = 0.0
    """What had passed of `timeout_s` before the pool was asked."""
    template: TemplateOptions = field(default_factory=TemplateOptions)
    """How chat messages are rendered."""


def request_options(
    *,
    priority: str = Priority.DEFAULT,
    tenant: str = "",
    timeout_s: float | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    template_variables: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> RequestOptions:
    """Options from a caller's keywords; every keyword that is not named here is a sampling parameter.

    :raises InvalidRequest: naming the first keyword that is wrong.
    """
    if priority not in _PRIORITIES:
        raise InvalidRequest(f"priority is one of {', '.join(_PRIORITIES)}, not {priority!r}.", param="priority")
    if not isinstance(tenant, str) or len(tenant) > MAX_TENANT_CHARACTERS:
        raise InvalidRequest(f"tenant is a text of at most {MAX_TENANT_CHARACTERS} characters.", param="tenant")
    if timeout_s is not None and not _is_positive(timeout_s):
        raise InvalidRequest(f"timeout_s is a positive number of seconds, not {timeout_s!r}.", param="timeout_s")
    return RequestOptions(
        params=sampling_params(**sampling),
        priority=Priority(priority),
        tenant=tenant,
        timeout_s=timeout_s,
        template=_template_options(tools, add_generation_prompt, continue_final_message, template_variables),
    )


def _template_options(
    tools: Any, add_generation_prompt: Any, continue_final_message: Any, variables: Any
) -> TemplateOptions:
    if tools is not None and not (isinstance(tools, list | tuple) and all(isinstance(tool, Mapping) for tool in tools)):
        raise InvalidRequest("tools is a list of objects.", param="tools")
    for name, value in (
        ("add_generation_prompt", add_generation_prompt),
        ("continue_final_message", continue_final_message),
    ):
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name} is true or false, not {value!r}.", param=name)
    if variables is not None:
        if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
            raise InvalidRequest("template_variables is a mapping from names to values.", param="template_variables")
        require_free_names(variables)
    return TemplateOptions(tools, add_generation_prompt, continue_final_message, variables)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
