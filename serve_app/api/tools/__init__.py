"""Tool calls: which grammar makes a model write them, and how its text becomes calls again. Pure: no Ray, no HTTP.

A request with tools goes through here twice. `plan_tools` checks what the caller asked for and says what to give the
template and the sampler; then one parser per choice (`plan.parser()`) turns the text of its deltas into events:

    format = detect_format(encoder.template_source, added_tokens(encoder.tokenizer))   # once per model
    constraint = text_constraint(response_format, guided_regex=...)          # once per request; None: any text
    plan = plan_tools(tools, choice, tool_format=format, constraint=constraint)   # refuses with 400
    plan = await usable_plan(make, grammars)                                 # the same, by a plan that can be compiled
    TemplateOptions(tools=plan.template_tools)                               # None: render without tools
    sampling_params(..., **plan.sampling())                                  # the grammar, if there is one

    parser = plan.parser()                                                   # once per choice (n)
    parser.push(delta.text)  -> [TextPiece | ToolCallStarted | ToolCallArguments, ...]
    parser.finish()          -> the same, for what was held back
    plan.finish_reason(delta_reason, parser) -> "stop" | "length" | "tool_calls" | ...

A plan without offered tools passes text through, so a route needs no second path.
"""

from serve_app.api.tools.checked import usable_plan
from serve_app.api.tools.definitions import Tool, ToolChoice
from serve_app.api.tools.events import TextPiece, ToolCallArguments, ToolCallStarted, ToolEvent
from serve_app.api.tools.grammar import RefusedSchemas
from serve_app.api.tools.parser import ToolCallParser
from serve_app.api.tools.plan import ToolPlan, plan_tools

__all__ = [
    "RefusedSchemas",
    "TextPiece",
    "Tool",
    "ToolCallArguments",
    "ToolCallParser",
    "ToolCallStarted",
    "ToolChoice",
    "ToolEvent",
    "ToolPlan",
    "plan_tools",
    "usable_plan",
]
