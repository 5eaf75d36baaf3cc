"""The OpenAI-compatible API: a body becomes a request to the pool, and the pool's deltas become a body again."""
