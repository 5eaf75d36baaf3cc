"""One file describes a deployment: `exlpool up cluster.yaml`. Its words are those of `serve_app.config`, and beside
them it has the name of the application and where Serve listens."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actors.config import require_form
from cluster.urls import local_url
from serve_app.config import ListenConfig, LiveSettings, ModelConfig, ServeConfig, checked_config

BUILDER = "serve_app:build_app"
FRONT_NAME = "HttpFront"
"""As in `serve_app.serving.deployment`, which takes seconds to import."""
APP_NAME = "exlpool"
_APPLICATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
OF_A_MODEL = frozenset(ModelConfig.model_fields) - {"name"}
"""The settings that may stand at the top where there is one model. `name` there is the application's."""


class HttpConfig(BaseModel):
    """Where Serve's proxy listens. What is set here cannot change while the application runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="IP address; other than this machine's own needs a keys_file")
    port: int = Field(8000, ge=1, le=65535, description="TCP port")
    proxy_location: Literal["HeadOnly", "EveryNode"] = Field(
        "HeadOnly", description="EveryNode: an HTTP server on every node that runs a front"
    )

    @field_validator("host")
    @classmethod
    def _is_address(cls, host: str) -> str:
        return ListenConfig(host=host).host


class ClusterConfig(ServeConfig):
    """A deployment: its models with their workers, its HTTP fronts, and who may ask.

    With one model its settings may stand at the top, all but its name. Without any it is the built-in model.
    """

    of_one_model: ClassVar[frozenset[str]] = OF_A_MODEL

    name: str = Field(APP_NAME, description="of the application, by which `exlpool status` and `exlpool down` find it")
    http: HttpConfig = Field(HttpConfig(), description="where Serve listens; fixed while it runs")

    @field_validator("name")
    @classmethod
    def _fits_serve(cls, name: str) -> str:
        return require_form(name, _APPLICATION, "at most 63 letters, digits, '_' and '-', the first a letter or digit")

    @property
    def url(self) -> str:
        """Where a client on the machine of a proxy finds the API."""
        return local_url(self.http.host, self.http.port)


def cluster_config(**values: Any) -> ClusterConfig:
    """`ClusterConfig(**values)`, with every fault told in one sentence.

    :raises ConfigurationError: an unknown setting, a wrong type or a value out of range.
    """
    return checked_config(ClusterConfig, values)


def serve_document(config: ClusterConfig) -> dict[str, Any]:
    """What Serve is told to run, as in `cluster/serve.yaml`. Live settings stand apart, so that a change of them
    restarts nothing."""
    live = config.live.model_dump(mode="json")
    args = config.model_dump(mode="json", exclude_unset=True, exclude={"name", "http", *LiveSettings.model_fields})
    return {
        "proxy_location": config.http.proxy_location,
        "http_options": {"host": config.http.host, "port": config.http.port},
        "applications": [
            {
                "name": config.name,
                "route_prefix": "/",
                "import_path": BUILDER,
                "args": args,
                "deployments": [{"name": FRONT_NAME, "user_config": live}],
            }
        ],
    }
