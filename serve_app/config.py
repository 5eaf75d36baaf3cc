"""Everything that can be set of the HTTP front, under the same words in Python, in YAML and on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from actors.certificates import pair_problem
from actors.config import PoolConfig, require_form
from actors.errors import ConfigurationError
from actors.pool_names import served_pool_name
from actors.results import Priority
from actors.wording import setting_error, shown

BUILTIN_NAME = "builtin"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}")
ALL_ORIGINS = "*"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_OWN_PORTS = {"http": 80, "https": 443}
_ONE_MODEL = ("models", 0)
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(PoolConfig):
    """A model that is served: a pool of its own, under the name by which clients ask for it."""

    name: str = Field(BUILTIN_NAME, description="none: the name of the model's directory")
    detached: Literal[False] = Field(False, description="the pool lives as long as the application")
    default_priority: Priority = Field(Priority.DEFAULT, description="class of a request that names none")

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_directory(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" not in values and values.get("model") is not None:
            name = _NOT_IN_A_NAME.sub("-", Path(str(values["model"])).name).lstrip("-._")
            return {**values, "name": name or "model"}
        return values

    @field_validator("name")
    @classmethod
    def _fits_ray(cls, name: str) -> str:
        """In the place of the pool's own: clients know longer names, with a few more characters."""
        return require_form(
            name, MODEL_NAME, "at most 128 letters, digits and any of '_.:/@+-', the first a letter or digit"
        )

    def pool(self, life: str) -> PoolConfig:
        """The configuration of its pool, whose actors are found by name when whoever started them is gone. `life` tells
        one life of the pool from the next: Ray frees names late."""
        settings = {name: getattr(self, name) for name in PoolConfig.model_fields}
        return PoolConfig(**{**settings, "name": served_pool_name(self.name, life), "detached": True})


def _absolute(path: Path | None) -> Path | None:
    """Replicas have another working directory than whoever starts them."""
    return None if path is None else path.expanduser().absolute()


class LiveSettings(_Section):
    """What can change while the application runs, by Serve's `user_config` of the deployment "HttpFront"."""

    keys_file: Path | None = Field(None, description="hashed keys; none: anybody on this machine may ask")
    remote_without_keys: bool = Field(False, description="without keys, answer other machines too")
    cors_origins: tuple[str, ...] = Field((), description='origins of browser pages that may ask; "*": all')
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="of a request, beyond which it is refused")
    body_timeout_s: float = Field(60.0, gt=0.0, description="time that a client has to send its request")
    max_header_bytes: int = Field(
        32 * 1024, ge=1024, description="`listen` holds to it while it reads; Serve's own proxy reads any head first"
    )
    max_headers: int = Field(100, ge=10, description="of a request, beyond which it is refused")
    access_log: bool = Field(True, description="a line per request, without its content")
    log_content: bool = Field(False, description="log what is asked and answered too")

    @field_validator("keys_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return _absolute(path)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """Browsers send an origin in one form only, and any other one would never be equal to it."""
        for origin in origins:
            right = browser_origin(origin)
            if origin != right:
                meant = f"; did you mean {right!r}?" if right else ""
                raise ValueError(f"{shown(origin)} is no origin such as 'https://page.example:8443'{meant}")
        return origins


class FrontScaling(_Section):
    """How many replicas of the HTTP front there are. Serve adds and takes away by the requests that are under way."""

    min_replicas: int = Field(1, ge=1, description="replicas when nobody asks")
    max_replicas: int = Field(4, ge=1, description="replicas when many ask")
    target_requests: float = Field(256.0, gt=0.0, description="requests under way per replica")
    cpus: float = Field(0.0, ge=0.0, description="CPUs that each replica claims from Ray")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is at most max_replicas")
        return self


class ListenConfig(_Section):
    """An HTTP listener of the front's own, beside Serve's proxy and much cheaper. Replicas on one machine share it;
    Serve does not see its requests, so the number of replicas is fixed."""

    host: str = Field("127.0.0.1", description="IP address; other machines' requests need keys")
    port: int = Field(8000, ge=1, le=65535, description="TCP port")
    tls_certificate: Path | None = Field(
        None, description="PEM file with the server's certificate and those up to its authority's; none: no TLS"
    )
    tls_key: Path | None = Field(None, description="PEM file with its private key, without a passphrase")

    @field_validator("host")
    @classmethod
    def _is_address(cls, host: str) -> str:
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"must be an IP address, not {shown(host)}") from None
        return host

    @field_validator("tls_certificate", "tls_key")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return _absolute(path)

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("`tls_certificate` and `tls_key` go together")
        return self

    def require_tls_files(self) -> None:
        """They can be used, on this machine and now.

        :raises ConfigurationError: saying what is wrong with them.
        """
        if self.tls_certificate is None or self.tls_key is None:
            return
        if problem := pair_problem(self.tls_certificate, self.tls_key):
            raise ConfigurationError(
                f"`tls_certificate` and `tls_key` cannot be used: {problem}.", param="listen.tls_certificate"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Bounds on one request that the API itself enforces; bodies and headers are bounded before it.

    `max_choices` bounds the completions that one request may ask for: prompts times `n`.
    """

    max_choices: int = 128
    default_timeout_s: float | None = None
    """Bound on the whole life of a request that names none; None: none."""
    keepalive_s: float = 10.0
    """The longest silence of a stream: well below the 30 to 60 s after which proxies end what says nothing."""


class ServeConfig(LiveSettings):
    """The application: its models, and how they are offered.

    With one model its settings may stand at the top: `ServeConfig(model="DIR", workers=4)`. Without any it is the
    built-in model.
    """

    of_one_model: ClassVar[frozenset[str]] = frozenset(ModelConfig.model_fields)
    """The settings that may stand at the top where there is one model."""

    models: tuple[ModelConfig, ...] = Field((ModelConfig(),), min_length=1, description="each with a pool of its own")
    fronts: FrontScaling = Field(FrontScaling(), description="replicas of the HTTP front")
    listen: ListenConfig | None = Field(None, description="none: Serve's proxy is the only way in")
    max_choices: int = Field(128, ge=1, description="completions of one request: prompts x n")
    default_timeout_s: float | None = Field(None, gt=0.0, description="bound on a request that names none")
    drain_s: float = Field(300.0, ge=0.0, description="time that running requests have to end in an update")
    docs: bool = Field(True, description="serve /docs and /openapi.json")

    @model_validator(mode="before")
    @classmethod
    def _one_model_at_the_top(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "models" in values:
            return values
        single = {name: value for name, value in values.items() if name in cls.of_one_model}
        others = {name: value for name, value in values.items() if name not in single}
        return {**others, "models": (single,)}

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise ValueError(f"each model needs a `name` of its own, not {', '.join(names)}")
        return models

    @model_validator(mode="after")
    def _fixed_replicas_listen(self) -> Self:
        if self.listen is not None and self.fronts.min_replicas != self.fronts.max_replicas:
            raise ValueError("with `listen`, set min_replicas and max_replicas of `fronts` to the same number")
        return self

    @property
    def live(self) -> LiveSettings:
        return LiveSettings(**{name: getattr(self, name) for name in LiveSettings.model_fields})

    @property
    def api_limits(self) -> ApiLimits:
        return ApiLimits(max_choices=self.max_choices, default_timeout_s=self.default_timeout_s)


def browser_origin(text: str) -> str | None:
    """The origin of a page as a browser sends it: scheme, host in lower case, and a port that is not the scheme's own;
    or "*" for all. None where the text names no page."""
    if text.strip() == ALL_ORIGINS:
        return ALL_ORIGINS
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none, or half an IPv6 address
        return None
    if not parts.scheme or not host or parts.username is not None or not _HOST.fullmatch(host):
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port in (None, _OWN_PORTS.get(parts.scheme)) else f":{port}")


C = TypeVar("C", bound=ServeConfig)


def serve_config(**values: Any) -> ServeConfig:
    """`ServeConfig(**values)`, with every fault told in one sentence.

    :raises ConfigurationError: an unknown setting, a wrong type or a value out of range.
    """
    return checked_config(ServeConfig, values)


def checked_config(kind: type[C], values: dict[str, Any]) -> C:
    """`kind(**values)`, with every fault told in one sentence.

    :raises ConfigurationError: an unknown setting, a wrong type or a value out of range.
    """
    of_a_model = [name for name in values if name in kind.of_one_model]
    if "models" in values and of_a_model:
        raise ConfigurationError(
            f"{of_a_model[0]} is a setting of one model: beside `models` it stands in an entry of that list.",
            param=of_a_model[0],
        )
    try:
        return kind(**values)
    except ValidationError as error:
        if "models" in values:
            raise setting_error(error, kind) from None
        # Whoever has set one model at the top knows of no list.
        raise setting_error(error, kind, top=_ONE_MODEL, also=tuple(kind.of_one_model)) from None


def live_settings(current: LiveSettings, changes: dict[str, Any]) -> LiveSettings:
    """`current` with `changes`.

    :raises ConfigurationError: a change is unknown or wrong.
    """
    try:
        return LiveSettings(**{**current.model_dump(), **changes})
    except ValidationError as error:
        raise setting_error(error, LiveSettings) from None
