"""The models that are served: each a pool under a name, its text and tokens, and whether it can generate now."""
