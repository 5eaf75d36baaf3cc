"""How properties and state machines are searched: in the same way each time by `make test`, at random by `make fuzz`.

Importing this loads the profile "fixed", which every test run has unless it asks for another: the examples follow from
the test itself, so that a run fails today exactly where it failed yesterday. Nothing that depends on time decides: no
deadlines, and no complaint about a slow machine. What a random search once found is kept as an explicit example.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FIXED_EXAMPLES = 100
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1000"))

_ALWAYS = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("fixed", _ALWAYS, max_examples=FIXED_EXAMPLES, derandomize=True)
settings.register_profile("fuzz", _ALWAYS, max_examples=FUZZ_EXAMPLES, derandomize=False, print_blob=True)
settings.load_profile("fixed")


def examples(count: int) -> settings:
    """Settings of a property for which `make test` has `count` examples instead of the usual 100, since each takes
    longer (or has to be rarer) than most. `make fuzz` has more of them in the same proportion."""
    usual = settings.get_profile(settings.get_current_profile_name()).max_examples
    return settings(max_examples=max(1, count * usual // FIXED_EXAMPLES))
