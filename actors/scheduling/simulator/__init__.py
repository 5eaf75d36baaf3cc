"""Replays traces in virtual time round the real scheduler, beside competing policies. Run with `python -m`."""
