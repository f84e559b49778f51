"""Plain crossings: from one curve over the steps to one boundary, with its evidence.

Nothing here knows what a curve measures. The interval of a crossing is the gap between the last
checkpoint without the new state and the first one with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FALL",
    "REACHED",
    "SETTLED",
    "Boundary",
    "Curve",
    "bracket",
    "first_fall",
    "rises_for_good",
    "settles",
]

#: Accuracy that counts as memorised (train) or generalised (held-out) when it stays.
REACHED = 0.99
#: Share of its running maximum that a curve must lose before its fall counts as begun.
FALL = 0.3
#: A running maximum below this share of the run's maximum is not yet the plateau: an
#: untrained network answers almost uniformly and looks symmetric.
PLATEAU = 0.5
#: Band around its last level, as a share of the whole fall, in which a curve has settled.
SETTLED = 0.1

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Boundary:
    """Where one stage gives way to the next, and why it is thought so.

    Attributes
    ----------
    value : float
        Step; NaN when there is no such boundary, or none can be told.
    evidence : str
        What set it, or why there is none.
    known : bool
        False when the curve that would tell is missing: `value` is NaN because nobody
        looked, not because nothing happened.
    since : float
        First step at which the new state is seen, even if it is lost for a while before
        `value`; NaN if it is never seen.
    until : float
        Step from which the state is lost for good; infinity if it is not.
    lower, upper : float
        Interval of `value`; NaN where there is no value. A lower end of minus infinity says that
        the state is there from the first checkpoint on.
    p_value : float
        Of the break that set it, against none; NaN where no break did.
    interval_prob : float
        Probability that the interval is for; NaN where it is the gap between two checkpoints.
    draws : (samples, 2) float array
        Intervals under other noise of the same kind; NaN where that left no boundary. One row
        where the interval is the gap between two checkpoints.
    """

    value: float
    evidence: str
    known: bool = True
    since: float = math.nan
    until: float = math.inf
    lower: float = math.nan
    upper: float = math.nan
    p_value: float = math.nan
    interval_prob: float = math.nan
    draws: FloatArray = field(default_factory=lambda: np.full((1, 2), np.nan), compare=False)

    @property
    def exists(self) -> bool:
        """Whether there is such a step."""
        return not math.isnan(self.value)

    @property
    def or_earlier(self) -> bool:
        """Whether the state was there when the record began."""
        return self.lower == -math.inf

    @property
    def sureness(self) -> float:
        """Share of the draws in which there is such a step."""
        return float(np.isfinite(self.draws[:, 1]).mean())

    def holds(self, steps: FloatArray) -> NDArray[np.bool_]:
        """Return at which steps the state has begun and is not lost for good."""
        return (steps >= self.since) & (steps < self.until)


@dataclass(frozen=True)
class Curve:
    """A quantity over the steps at which it is known.

    Attributes
    ----------
    what : str
        Its name, for the evidence.
    steps : (n,) float array
        Increasing steps with a finite value.
    values : (n,) float array
        Values there.
    reason : str
        Why there is none, when there is none.
    """

    what: str
    steps: FloatArray
    values: FloatArray
    reason: str = ""

    def __bool__(self) -> bool:
        return len(self.steps) > 0


def rises_for_good(curve: Curve, level: float = REACHED) -> Boundary:
    """Return the first step from which a curve stays at or above a level to its end.

    Parameters
    ----------
    curve : Curve
    level : float

    Returns
    -------
    Boundary
    """
    if not curve:
        return Boundary(math.nan, curve.reason, known=False)
    steps, values = curve.steps, curve.values
    above = values >= level
    if not above.any():
        best = int(values.argmax())
        return Boundary(
            math.nan,
            f"{curve.what} never reached {level:g}; its best is {values[best]:.4g} at step "
            f"{steps[best]:.0f}",
        )
    first = int(above.argmax())
    since = float(steps[first])
    below = np.flatnonzero(~above)
    if not above[-1]:
        lost = len(above) - int(above[::-1].argmax())
        return Boundary(
            math.nan,
            f"{curve.what} reached {level:g} at step {since:.0f} but did not stay there: "
            f"it is below from step {steps[lost]:.0f} on and ends at {values[-1]:.4g}",
            since=since,
            until=float(steps[lost]),
            draws=bracket(steps, first),
        )
    if not len(below):
        return Boundary(
            since,
            f"{curve.what} is at or above {level:g} from the first checkpoint on: reached at "
            f"step {since:.0f} or earlier",
            since=since,
            lower=-math.inf,
            upper=since,
            draws=bracket(steps, 0),
        )
    start = int(below[-1]) + 1
    evidence = (
        f"{curve.what} stays at or above {level:g} from step {steps[start]:.0f} "
        f"({values[start]:.4g}; {values[start - 1]:.4g} at step {steps[start - 1]:.0f})"
    )
    if first < start:
        dips = int((below > first).sum())
        evidence += (
            f"; it first reached {level:g} at step {since:.0f} and was below again at {dips} "
            f"checkpoint{'s' if dips > 1 else ''} in between"
        )
    return Boundary(
        float(steps[start]),
        evidence,
        since=since,
        lower=float(steps[start - 1]),
        upper=float(steps[start]),
        draws=bracket(steps, first),
    )


def bracket(steps: FloatArray, at: int) -> FloatArray:
    """Return the gap before a known step, (1, 2); open where there is none before."""
    return np.array([[steps[at - 1] if at else -math.inf, steps[at]]])


def first_fall(curve: Curve, fraction: float = FALL, floor: float = 0.0) -> Boundary:
    """Return the first step at which a curve has lost a share of its running maximum.

    A step counts when (1) the value is at most ``1 - fraction`` of the largest value so far,
    (2) that largest value is at least half (`PLATEAU`) of the largest of the whole run, so
    that a dip before the plateau does not count, and (3) the next known value is as low too,
    so that a single outlier does not count (at the last checkpoint there is no next one).
    The onset proper lies between the last step at the maximum and this one.

    Parameters
    ----------
    curve : Curve
        Non-negative values.
    fraction : float
        Share to be lost, in (0, 1). METHOD §10: in 24 control runs the Jensen-Shannon
        violation never fell by 30 % without generalisation to come.
    floor : float
        A curve that never exceeds it has nothing to lose.

    Returns
    -------
    Boundary
        `until` is set when the curve ends above the threshold again.
    """
    if not curve:
        return Boundary(math.nan, curve.reason, known=False)
    steps, values = curve.steps, curve.values
    if values.max() <= floor:
        return Boundary(
            math.nan,
            f"{curve.what} never exceeds {floor:g} (its maximum is {values.max():.3g}): there is "
            "nothing left to fall",
        )
    if len(values) < 2:
        return Boundary(
            math.nan, f"{curve.what} is known at one checkpoint only: no fall can show", known=False
        )
    highest = np.maximum.accumulate(values)
    plateau = highest >= PLATEAU * values.max()
    fallen = plateau & (values <= (1 - fraction) * highest)
    confirmed = fallen & np.append(fallen[1:], True)
    if not confirmed.any():
        lost = np.where(plateau, 1 - values / np.where(plateau, highest, 1), 0)
        most = int(lost.argmax())
        dip = ", for one checkpoint" if fallen.any() else ""
        most_words = f"at most by {lost[most]:.1%}, at step {steps[most]:.0f}{dip}"
        return Boundary(
            math.nan,
            f"{curve.what} does not fall by {fraction:.0%} from its running maximum: "
            f"{most_words if lost[most] > 0 else 'it never falls'}",
        )
    start = int(confirmed.argmax())
    top = int(values[: start + 1].argmax())
    evidence = (
        f"{curve.what} is down to {values[start]:.4g} at step {steps[start]:.0f}, from its "
        f"maximum {values[top]:.4g} at step {steps[top]:.0f}"
    )
    until = math.inf
    if not fallen[-1]:
        back = len(fallen) - int(fallen[::-1].argmax())
        until = float(steps[back])
        evidence += (
            f"; it is back above {1 - fraction:.0%} of its running maximum from step {until:.0f} on"
        )
    onset = float(steps[start])
    gap = np.array([[steps[top], onset]])
    return Boundary(
        onset,
        evidence,
        since=onset,
        until=until,
        lower=float(steps[top]),
        upper=onset,
        draws=gap,
    )


def settles(curve: Curve, onset: Boundary, band: float = SETTLED, least: float = 0.0) -> Boundary:
    """Return the first step from which a fallen curve stays near its last level.

    The last level is the median of the last tenth of the known values (at least one); near
    is within `band` of the fall from the largest value to that level, and at least `least`.

    Parameters
    ----------
    curve : Curve
    onset : Boundary
        Where its fall began, from `first_fall`.
    band : float
        Share of the whole fall.
    least : float
        Least distance that counts, in units of the curve: 1 for a count.

    Returns
    -------
    Boundary
        None before the onset, and none at the last checkpoint: one value cannot show rest.
    """
    if not onset.exists:
        why = "no fall began" if onset.known else "it cannot be told whether a fall began"
        return Boundary(math.nan, f"{why}: {onset.evidence}", known=onset.known)
    if not math.isinf(onset.until):
        return Boundary(math.nan, f"{curve.what} fell but rose again at step {onset.until:.0f}")
    steps, values = curve.steps, curve.values
    level = float(np.median(values[-max(1, len(values) // 10) :]))
    width = max(least, band * (values.max() - level))
    near = np.abs(values - level) <= width
    outside = np.flatnonzero(~near | (steps < onset.value))
    start = int(outside[-1]) + 1 if len(outside) else 0
    if start >= len(steps) - 1:
        where = f"the last checkpoint, step {steps[-1]:.0f}"
        how = (
            f"it reaches its last level {level:.4g} (± {width:.3g}) only with {where}"
            if near[-1]  # the level is a median: the last value may lie beyond it
            else f"with {where}, it is at {values[-1]:.4g}, further than {width:.3g} from its last "
            f"level {level:.4g}"
        )
        return Boundary(math.nan, f"{curve.what} has not settled: {how}")
    rest = float(steps[start])
    return Boundary(
        rest,
        f"{curve.what} stays within {width:.3g} of its last level {level:.4g} from step "
        f"{rest:.0f} on",
        since=rest,
        lower=float(steps[start - 1]) if start else -math.inf,
        upper=rest,
        draws=bracket(steps, start),
    )
