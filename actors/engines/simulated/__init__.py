"""An engine that models time and pages, not language: for tests and benchmarks of everything round an engine.

It is never chosen by itself. Its tokens depend on the whole sequence before them, like a model's, so a completion that
went wrong anywhere on its way shows, and one that is continued from its own beginning goes on the same.
"""

from actors.engines.simulated.engine import SimulatedEngine
from actors.engines.simulated.tokens import expected_tokens

__all__ = ["SimulatedEngine", "expected_tokens"]
