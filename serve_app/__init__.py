"""The HTTP front: `build_app` makes a Serve application of a configuration, `app` is one of the built-in model.

Both are looked up late, so that importing a part of this package stays cheap.
"""

from __future__ import annotations

from typing import Any

__all__ = ["app", "build_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_app.config import ServeConfig
    from serve_app.serving.deployment import build_app

    made = build_app if name == "build_app" else build_app(ServeConfig())
    globals()[name] = made
    return made
