"""Means over seeds with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds, and half the width of its 95 % confidence interval (Student's t); NaN for one seed."""

    mean: float
    half: float

    def __str__(self) -> str:
        """In per cent."""
        return f"{100 * self.mean:.1f}" if math.isnan(self.half) else f"{100 * self.mean:.1f} ± {100 * self.half:.1f}"


def interval(values: Sequence[float]) -> Interval:
    if len(values) < 2:
        return Interval(fmean(values), math.nan)
    return Interval(fmean(values), t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def t_quantile(probability: float, freedom: int) -> float:
    """Student's t: exact for 1 and 2 degrees of freedom, else by the expansion in 1 / freedom (Abramowitz and Stegun,
    26.7.5), within 1 % at 3 and better from there on."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + terms[0] / freedom + terms[1] / freedom**2 + terms[2] / freedom**3
