"""What is reported of a symmetry's violation over all its instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from geomdiag.metrics._quantiles import Weighted, weighted_quantiles

__all__ = ["PARTS", "STATISTICS", "Tally", "ViolationSummary"]

#: Statistics over the instances of a symmetry, with the probability each stands for.
STATISTICS: Mapping[str, float | None] = {"mean": None, "p50": 0.5, "p95": 0.95, "max": 1.0}
#: Instances by the part of the data that their inputs belong to.
PARTS = ("train", "heldout", "mixed")


@dataclass(frozen=True, kw_only=True)
class ViolationSummary:
    """Violation of a symmetry over all its instances.

    Attributes
    ----------
    kl : dict of str to float
        Statistic (mean, p50, p95, max) of the symmetric KL over the instances, nats.
    js : dict of str to float
        The same of the Jensen-Shannon divergence, nats. Every instance of an orbit carries
        the generalised divergence of its whole orbit, ``H(mean P) − mean H(P)``; a listed
        pair carries its own. So an orbit of n inputs weighs n², as it does in `kl`.
    instances : int
        Number of instances.
    exact : dict of str to bool
        Whether each statistic of `kl` is over all instances rather than a seeded sample.
        `js` is always over all of them.
    by_part : dict or None
        For each of `PARTS`: the statistics of `kl` over the instances whose inputs are all
        trained on, all held out, or some of each, and their number, ``instances``. A part
        without instances has NaN.
    lost_mass : dict or None
        For convolutions: statistics of the probability of distances that are no class.
    standard_error : float or None
        Of the mean of `kl`, where the instances are themselves a sample.
    directed : dict or None
        For compositions: statistics of ``KL(composed ‖ whole)``, nats.
    """

    kl: dict[str, float]
    js: dict[str, float]
    instances: int
    exact: dict[str, bool]
    by_part: dict[str, dict[str, float]] | None = None
    lost_mass: dict[str, float] | None = None
    standard_error: float | None = None
    directed: dict[str, float] | None = None


@dataclass
class Tally:
    """Sums and values of one set of instances while they are collected."""

    total: float = 0.0
    instances: int = 0
    zeros: float = 0.0
    values: list[Weighted] = field(default_factory=list)

    def summary(self, statistics: Sequence[str]) -> dict[str, float]:
        # a divergence is not negative: only rounding could make its sum so
        total = 0.0 if self.total < 0.0 else self.total  # NaN stays
        result = {"mean": total / self.instances if self.instances else float("nan")}
        wanted = {s: STATISTICS[s] for s in statistics if STATISTICS[s] is not None}
        levels = [level for level in wanted.values() if level is not None]
        quantiles = weighted_quantiles(self.values, levels, zeros=self.zeros) if levels else []
        result.update(zip(wanted, quantiles, strict=True))
        return {s: result[s] for s in statistics}
