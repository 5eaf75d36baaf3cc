"""What surrounds the API: ASGI middleware for request ids, logging, bounds, CORS, keys and rates."""

from serve_app.edge.stack import Edge

__all__ = ["Edge"]
