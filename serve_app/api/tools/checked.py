"""Whether the grammar of a plan can be compiled, and where it cannot, which tool is to blame."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from actors.errors import InvalidRequest
from actors.request.grammar.checker import GrammarChecker
from serve_app.api.tools.grammar import RefusedSchemas, schema_of
from serve_app.api.tools.plan import ToolPlan


async def usable_plan(make: Callable[[RefusedSchemas], Awaitable[ToolPlan]], grammars: GrammarChecker) -> ToolPlan:
    """The plan that `make` makes, with a grammar that can be compiled.

    Tools are looked at one by one only where their grammar as a whole is refused: then those whose schemas cannot be
    enforced, and need not, may call with any arguments.

    :raises InvalidRequest: it cannot be compiled, or the parameters of a tool cannot; `param` names the field.
    :raises Overloaded: too many others are being compiled.
    """
    plan = await make({})
    if plan.constraint is None:
        return plan
    try:
        await plan.constraint.check(grammars)
    except InvalidRequest:
        refused = await _refused_schemas(plan, grammars)
        if not refused:
            raise
    else:
        return plan
    plan = await make(refused)
    if plan.constraint is not None:
        await plan.constraint.check(grammars)
    return plan


async def _refused_schemas(plan: ToolPlan, grammars: GrammarChecker) -> RefusedSchemas:
    refused = {}
    for tool in plan.enforced:
        schema = schema_of(tool)
        try:
            await grammars.check("json_schema", schema.source, param="tools", subject=schema.subject)
        except InvalidRequest as error:
            refused[schema.source] = error
    return refused
