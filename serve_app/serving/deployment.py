"""The Serve application: a deployment of the HTTP front, and one owner per model's pool."""

import os
from typing import Any

from ray import serve
from ray.serve import Application

from serve_app.config import ModelConfig, ServeConfig
from serve_app.edge.keys_file import load_keys
from serve_app.serving.http_front import HttpFront
from serve_app.serving.pool_owner import PoolOwner

UNLIMITED = 1_000_000
"""The pool's dispatcher admits, and knows why; Serve must never refuse or hold back a request before it."""
OWNER_STOP_S = 5.0
HEALTH_CHECK_S = 2.0
FRONT_NAME = "HttpFront"
_LOGGING = {"enable_access_log": False, "log_level": "INFO"}


def build_app(args: ServeConfig) -> Application:
    """The application: `serve run serve_app:build_app model=DIR workers=4`, or `args` in a YAML file for Serve.

    :raises ConfigurationError: the keys file is wrong.
    """
    if args.keys_file is not None and os.path.exists(args.keys_file):
        load_keys(args.keys_file)  # on this machine; each replica reads its own
    scaling = args.fronts
    fixed = scaling.min_replicas == scaling.max_replicas
    replicas: dict[str, Any] = (
        {"num_replicas": scaling.min_replicas}
        if fixed
        else {
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": scaling.max_replicas,
                "target_ongoing_requests": scaling.target_requests,
            }
        }
    )
    front = serve.deployment(
        name=FRONT_NAME,
        max_ongoing_requests=UNLIMITED,
        max_queued_requests=-1,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=args.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_CHECK_S,
        ray_actor_options={"num_cpus": scaling.cpus},
        logging_config=_LOGGING,
        user_config=args.live.model_dump(mode="json"),  # Serve tells nobody of one that was taken out of a file
        **replicas,
    )(HttpFront)
    return front.bind(args, *(_owner(model, args) for model in args.models))


def owner_name(model: ModelConfig) -> str:
    """The name of the deployment that owns the pool of a model."""
    return f"PoolOwner-{model.name}"


def _owner(model: ModelConfig, args: ServeConfig) -> Application:
    owner = serve.deployment(
        name=owner_name(model),
        num_replicas=1,
        max_surge_percent=100,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=OWNER_STOP_S,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=HEALTH_CHECK_S,
        ray_actor_options={"num_cpus": 0},
        logging_config=_LOGGING,
    )(PoolOwner)
    return owner.bind(model, args.drain_s, args.models)
