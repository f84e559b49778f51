"""Whether the stages began in the order that was claimed: tested, not assumed."""

from __future__ import annotations

import math

import numpy as np

from geomdiag.dynamics.crossings import REACHED, Boundary
from geomdiag.dynamics.plateau import LEVEL

__all__ = ["in_order", "order_words"]


def in_order(boundaries: list[Boundary], samples: int, seed: int) -> float:
    """Return the share of draws in which some boundaries come in order.

    Parameters
    ----------
    boundaries : list of Boundary
        As their order is claimed.
    samples : int
        A tenth of the draws.
    seed : int
        Of the draws.

    Returns
    -------
    float
        NaN where one of them is absent.
    """
    if any(math.isnan(one.since) for one in boundaries):
        return math.nan
    rng = np.random.default_rng(seed)
    many = 10 * samples
    places = []
    for one in boundaries:
        seen = one.draws[np.isfinite(one.draws[:, 1])]
        lower, upper = seen[rng.integers(len(seen), size=many)].T
        low, high = np.log1p(np.maximum(lower, 0.0)), np.log1p(upper)
        places.append(low + (high - low) * rng.random(many))
    return float((np.diff(places, axis=0) >= 0).all(axis=0).mean())


def order_words(
    memorised: Boundary, symmetry: Boundary, geometry: Boundary, probability: float
) -> str:
    """Return whether the three stages began in their order, in words.

    Parameters
    ----------
    memorised, symmetry, geometry : Boundary
        Where they began.
    probability : float
        As `in_order` gives it.

    Returns
    -------
    str
        Begins with held, broken or cannot be told.
    """
    order = {
        f"train accuracy {REACHED}": memorised,
        "t_symmetry": symmetry,
        "t_geometry": geometry,
    }
    absent = [name for name, boundary in order.items() if math.isnan(boundary.since)]
    if absent:
        return f"cannot be told: no {', no '.join(absent)}"
    verdict = "cannot be told"
    if min(boundary.sureness for boundary in order.values()) < LEVEL:
        pass  # whether there is such a stage at all is not sure
    elif probability >= LEVEL:
        verdict = "held"
    elif probability <= 1 - LEVEL:
        verdict = "broken"
    told = ", ".join(f"{name} at step {one.since:.0f}" for name, one in order.items())
    return f"{verdict}: {told}; held with probability {probability:.2f}"
