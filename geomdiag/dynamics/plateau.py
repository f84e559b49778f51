"""Where a curve leaves its plateau for good, from the segmentation of its logarithm.

The threshold of `first_fall` says whether a curve falls at all; the segmentation says where the
fall began, and how far other noise of the same kind would have moved that step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geomdiag.dynamics.crossings import FALL, Boundary, Curve, first_fall
from geomdiag.dynamics.segmentation import MAX_HINGES, Segmentation, segment_series

__all__ = ["LEVEL", "SAMPLES", "leaves_plateau"]

#: Share of its peak below which a curve counts as gone: its logarithm is taken of the share and
#: this, so that what happens far below (rounding, a network that grows ever surer) sets no break.
GONE = 0.1
#: Differences of the logarithm that are no stage: 5 %.
RESOLUTION = 0.05
#: Fewer points than this from the plateau on are not segmented.
FEWEST = 8
#: Breaks of the shape that is tested against a level: a plateau, a fall and a rest.
SHAPE = 2
#: More points than this are averaged in bins of equal width in log(1 + step).
MOST = 64
#: Level of significance of a break, replicates of a bootstrap, probability of its intervals.
SIGNIFICANT, SAMPLES, LEVEL = 0.05, 399, 0.9

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class _Points:
    """Points of a curve: checkpoints, or the means of some and the step of the middle one."""

    x: FloatArray
    values: FloatArray
    steps: FloatArray


def leaves_plateau(
    curve: Curve,
    floor: float = 0.0,
    *,
    begin: float = -math.inf,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Boundary:
    """Return the step at which a curve leaves its plateau for good.

    There is one when the curve falls by 30 % (`first_fall`) and the fall is no drift of
    autocorrelated noise: the best plateau, fall and rest are significant at 5 % against a level,
    the search for their places included (or the curve ends below a tenth of its peak, which no
    such noise explains). The logarithm of its share of the peak plus a tenth, from where it first
    comes within 30 % of the peak on, is cut into lines that meet over log(1 + step). The step is
    where that line begins which carries the fit out of the 30 % below its top for the last time.

    Parameters
    ----------
    curve : Curve
        Non-negative values.
    floor : float
        A curve that never exceeds it has nothing to lose.
    begin : float
        Step from which on the plateau is looked for.
    samples, seed : int
        Of the bootstrap of the interval and of the test.

    Returns
    -------
    Boundary
        The interval is a 90 % percentile interval, widened to the neighbouring checkpoints. With
        fewer than 8 checkpoints from the plateau on it is the gap from the peak to the
        threshold, and the step is that of the threshold. `since` is the step itself, also
        where the fall is later lost.
    """
    since = curve.steps >= begin
    rest = Curve(curve.what, curve.steps[since], curve.values[since], curve.reason)
    if curve and not rest:
        rest = replace(rest, reason=f"{curve.what} is unknown from step {begin:.0f} on")
    fall = first_fall(rest, floor=floor)
    if not fall.exists:
        return fall
    lasting = rest.steps < fall.until
    steps, values = rest.steps[lasting], rest.values[lasting]
    start = int((values >= (1 - FALL) * values.max()).argmax())
    before = max(curve.steps[curve.steps < steps[start]], default=-math.inf)
    points = _points(steps[start:], values[start:])
    if len(points.x) < FEWEST:
        few = len(points.x)
        return replace(
            fall,
            evidence=f"{fall.evidence}; {few} checkpoint{'s' if few > 1 else ''} from its plateau "
            f"on are too few (of {FEWEST}) to tell where it left it: somewhere after the maximum",
        )
    peak = float(values.max())
    fit = segment_series(
        points.x,
        np.log(points.values / peak + GONE),
        model="continuous",
        max_breaks=MAX_HINGES,
        resolution=RESOLUTION,
    )
    p_value = fit.p_value("constant", breaks=SHAPE, samples=samples, seed=seed)
    gone = float(np.median(values[-max(1, len(values) // 10) :])) <= GONE * peak
    if p_value > SIGNIFICANT and not gone:
        return Boundary(
            math.nan,
            f"{fall.evidence}, but autocorrelated noise about a level would do that as well "
            f"(p = {p_value:.2g}): no break is sure",
            p_value=p_value,
        )
    own = np.array([fit.breaks], dtype=np.int64)
    here = _leaving(own, fit.fitted[None])
    if here[0] < 0:  # what fell rises again, not far enough for the threshold to tell
        return replace(
            fall,
            evidence=f"{fall.evidence}; where it left its plateau cannot be told: a fit of "
            f"{_words(fit)} ends near its top",
            p_value=p_value,
        )
    draws = _gaps(points, _leaving(*fit.replicates(samples, seed)), before)
    # The estimate itself counts as a replicate, so that no interval is without it.
    lower, upper = np.sort(np.concatenate([_gaps(points, here, before), draws]), axis=0).T
    told = int(np.isfinite(upper).sum())  # sorted: what is not known stands last
    tail = round((1 - LEVEL) / 2 * (told - 1))
    (place,) = here
    (gap,) = _gaps(points, here, before)
    step = float(points.steps[place])
    how = (
        f"leaves its plateau at step {step:.0f}"
        if place
        else f"falls from step {step:.0f} on, the first near its peak"
    )
    unsure = float(np.isnan(draws[:, 1]).mean())
    doubt = f", and {unsure:.0%} of the replicates never leave it" if unsure > 1 - LEVEL else ""
    evidence = (
        f"{curve.what} {how} ({_words(fit)}; p = {p_value:.2g} against none{doubt}); "
        f"it{fall.evidence.removeprefix(curve.what)}"
    )
    return replace(
        fall,
        value=step,
        since=step,
        evidence=evidence,
        lower=float(min(lower[tail], gap[0])),
        upper=float(max(upper[told - 1 - tail], gap[1])),
        p_value=p_value,
        interval_prob=LEVEL,
        draws=draws,
    )


def _words(fit: Segmentation) -> str:
    count = len(fit.breaks)
    return f"{count} break{'' if count == 1 else 's'} in {len(fit.x)} points"


def _points(steps: FloatArray, values: FloatArray) -> _Points:
    """Return a curve's points; averages in bins where there are too many."""
    x = np.log1p(steps)
    if len(x) <= MOST:
        return _Points(x, values, steps)
    label = np.minimum(((x - x[0]) / (x[-1] - x[0]) * MOST).astype(np.int64), MOST - 1)
    _, start, label = np.unique(label, return_index=True, return_inverse=True)
    size = np.bincount(label)
    return _Points(
        np.bincount(label, weights=x) / size,
        np.bincount(label, weights=values) / size,
        steps[start + size // 2],
    )


def _leaving(breaks: NDArray[np.int64], fitted: FloatArray) -> NDArray[np.int64]:
    """Return where the line begins that leaves the plateau, for each fit; -1 where none does."""
    series, n = fitted.shape
    nodes = np.concatenate(
        [np.zeros((series, 1), dtype=np.int64), breaks, np.full((series, 1), n - 1)], axis=1
    )
    share = np.exp(np.take_along_axis(fitted, nodes, axis=1)) - GONE
    on = share >= (1 - FALL) * share.max(axis=1, keepdims=True)
    last = on.shape[1] - 1 - on[:, ::-1].argmax(axis=1)
    place = np.take_along_axis(nodes, last[:, None], axis=1)[:, 0]
    return np.where(last < on.shape[1] - 1, place, -1)


def _gaps(points: _Points, places: NDArray[np.int64], before: float) -> FloatArray:
    """Return between which checkpoints each place lies; NaN where it is none."""
    lower = np.append(before, points.steps)[places]
    upper = np.append(points.steps, math.nan)[places + 1]
    return np.where((places >= 0)[:, None], np.stack([lower, upper], axis=1), np.nan)
