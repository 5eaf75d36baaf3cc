"""The list of models."""

from __future__ import annotations

from typing import Literal

from serve_app.api.schemas.common import ResponseModel


class ModelCard(ResponseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "exlpool"
    max_model_len: int | None
    """Tokens of prompt and completion together; None while the model is being loaded."""


class ModelList(ResponseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
