"""What is learned from step reports: how long a worker's steps take, and how long completions become."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from actors.messages import StepSample

FORGETTING = 0.99
"""Weight that a step loses with each newer one: about the last 100 steps count."""
OUTLIER_FACTOR = 8.0
"""A step that took longer than so many times what was foreseen counts as that: a hiccup, or the start of a change."""
OUTLIER_AFTER = 16
"""Steps after which outliers are cut."""
_TOKENS = 1000.0
"""Prompt tokens are counted in thousands inside the fit, so that its matrix is well conditioned."""
_PRIOR_WEIGHT = (0.5, 8.0, 0.05)
"""How firmly the prior holds (base, per job, per 1000 prompt tokens), in units of the squared regressor."""
_SWEEPS = 40


class StepTimes(NamedTuple):
    """A worker's speed: a step takes `base_s + per_job_s * batch + prefill_s * prompt tokens`."""

    base_s: float
    per_job_s: float
    prefill_s: float

    def step_s(self, batch: float) -> float:
        """Seconds of a step that decodes `batch` sequences."""
        return self.base_s + self.per_job_s * batch


DEFAULT_TIMES = StepTimes(0.02, 0.001, 1 / 4000)
"""Of a worker that nobody has seen step, in a pool of which the same is true: a mid-range GPU."""


class StepModel:
    """Step times of one worker: least squares over its recent steps, all three coefficients at least 0.

    A worker that is new leans on `prior`, usually the mean of the pool.
    """

    def __init__(self, prior: StepTimes = DEFAULT_TIMES) -> None:
        self._prior = (prior.base_s, prior.per_job_s, prior.prefill_s * _TOKENS)
        self._xx = [0.0] * 6  # upper triangle: 11, 12, 13, 22, 23, 33
        self._xy = [0.0] * 3
        self.times = prior
        self.samples = 0

    def __repr__(self) -> str:
        base_s, per_job_s, prefill_s = self.times
        return (
            f"<StepModel {1e3 * base_s:.3g} ms + {1e3 * per_job_s:.3g} ms per job + "
            f"{1e6 * prefill_s:.3g} µs per prompt token, of {self.samples} steps>"
        )

    def observe(self, samples: Iterable[StepSample]) -> None:
        """Take in steps, oldest first. Steps that did nothing and impossible values are passed over."""
        seen = self.samples
        for sample in samples:
            batch, tokens, duration_s = sample.decode_batch, sample.prefill_tokens / _TOKENS, sample.duration_s
            if batch < 0 or tokens < 0 or not (batch or tokens) or not 0 <= duration_s < 1e6:
                continue
            if self.samples >= OUTLIER_AFTER:
                foreseen_s = self.times.step_s(batch) + self.times.prefill_s * _TOKENS * tokens
                duration_s = min(duration_s, OUTLIER_FACTOR * foreseen_s + 1e-3)
            self._add(float(batch), tokens, duration_s)
            self.samples += 1
        if self.samples != seen:
            base_s, per_job_s, prefill_s = self._solve()
            self.times = StepTimes(base_s, per_job_s, prefill_s / _TOKENS)

    def _add(self, batch: float, tokens: float, duration_s: float) -> None:
        xx, xy, keep = self._xx, self._xy, FORGETTING
        xx[0] = xx[0] * keep + 1.0
        xx[1] = xx[1] * keep + batch
        xx[2] = xx[2] * keep + tokens
        xx[3] = xx[3] * keep + batch * batch
        xx[4] = xx[4] * keep + batch * tokens
        xx[5] = xx[5] * keep + tokens * tokens
        xy[0] = xy[0] * keep + duration_s
        xy[1] = xy[1] * keep + batch * duration_s
        xy[2] = xy[2] * keep + tokens * duration_s

    def _solve(self) -> tuple[float, float, float]:
        a, b, c, d, e, f = self._xx
        weight, prior = _PRIOR_WEIGHT, self._prior
        a, d, f = a + weight[0], d + weight[1], f + weight[2]
        u, v, w = (xy + k * p for xy, k, p in zip(self._xy, weight, prior, strict=True))
        minor_a, minor_b, minor_c = d * f - e * e, c * e - b * f, b * e - c * d
        determinant = a * minor_a + b * minor_b + c * minor_c
        x = (u * minor_a + v * minor_b + w * minor_c) / determinant
        y = (u * minor_b + v * (a * f - c * c) + w * (b * c - a * e)) / determinant
        z = (u * minor_c + v * (b * c - a * e) + w * (a * d - b * b)) / determinant
        if x >= 0 and y >= 0 and z >= 0:
            return x, y, z
        x, y, z = max(x, 0.0), max(y, 0.0), max(z, 0.0)
        for _ in range(_SWEEPS):  # projected Gauss-Seidel: the constrained optimum
            x = max((u - b * y - c * z) / a, 0.0)
            y = max((v - b * x - e * z) / d, 0.0)
            z = max((w - c * x - e * y) / f, 0.0)
        return x, y, z


class OutputLengths:
    """How much of `max_new_tokens` completions use, per tenant, leaning on the whole pool for those rarely seen."""

    FIRST_GUESS = 0.5
    KEEP = 0.97
    LEAN = 8.0
    """Completions of a tenant that weigh as much as the pool's mean."""
    MAX_TENANTS = 4096

    def __init__(self) -> None:
        self._all = self.FIRST_GUESS
        self._tenants: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<OutputLengths: {100 * self._all:.3g} % of max_new_tokens, {len(self._tenants)} tenants seen>"

    def observe(self, tenant: str, completion_tokens: int, max_new_tokens: int) -> None:
        """A completion has ended by itself or at its bound."""
        share = min(max(completion_tokens / max_new_tokens, 0.0), 1.0)
        self._all += (1.0 - self.KEEP) * (share - self._all)
        total, count = self._tenants.pop(tenant, (0.0, 0.0))
        self._tenants[tenant] = (total * self.KEEP + share, count * self.KEEP + 1.0)
        if len(self._tenants) > self.MAX_TENANTS:
            self._tenants.popitem(last=False)

    def expected(self, tenant: str, max_new_tokens: int) -> float:
        """Tokens a completion of this tenant will have, at least 1."""
        total, count = self._tenants.get(tenant, (0.0, 0.0))
        share = (total + self.LEAN * self._all) / (count + self.LEAN)
        return max(1.0, share * max_new_tokens)
