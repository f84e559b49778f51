"""The verdict in words: which stage, since when, how sure, what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geomdiag.plots.dynamics import BOUNDARIES

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "BOUNDARIES",
    "INTERVALS",
    "Verdict",
    "number",
    "overview",
    "stage_since",
    "verdict",
    "when",
]

Summary = Mapping[str, Any]

#: Stage to the words for it, and to the boundary it begins at.
_STAGES = {
    "before": ("before memorisation", ""),
    "memorisation": ("memorisation", "t_memorised"),
    "symmetry_acquisition": ("symmetry acquisition", "t_symmetry"),
    "geometric_organisation": ("geometric organisation", "t_geometry"),  # or later: _overlap
}
#: What stands in brackets behind the step of a boundary.
INTERVALS = (
    "Brackets with a percentage hold a bootstrap's interval of that probability; after names the "
    "last step at which the state was not yet there."
)
_PROSE = {"t_symmetry": "the fall of the symmetry violation", "t_geometry": "the loss of dimension"}


class Verdict(NamedTuple):
    """What is to be said of a run first; each an English sentence or more, as plain text."""

    stage: str
    since: str
    sure: str
    next: str


def number(value: float | str | None) -> str:
    """Return a number in four significant digits; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return {"inf": "beyond reach"}.get(value, value)
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.4g}"


def when(boundary: Mapping[str, Any]) -> str:
    """Return the step of a boundary and its interval; a dash where there is none.

    An interval that is for a probability bears it: ``370 (90 %: 277 to 467)``. Any other is the
    gap between the last checkpoint without the new state and the first with it: ``63 (after 60)``.
    """
    if boundary["step"] is None:
        return "–"
    lower, upper = boundary["interval"]
    text = str(boundary["step"])
    if boundary["or_earlier"]:
        return text + " or earlier"
    if upper is None or lower == upper:
        return text
    if boundary["interval_prob"] is None and upper == boundary["step"]:
        return text if lower is None else f"{text} (after {lower})"
    ends = f"to {upper}" if lower is None else f"{lower} to {upper}"
    if boundary["interval_prob"] is not None:
        ends = f"{100 * boundary['interval_prob']:.0f} %: {ends}"
    return f"{text} ({ends})"


def stage_since(dataset: xr.Dataset) -> int | None:
    """Return the step from which the run is in the stage it ends in; None if not known."""
    if "stage" not in dataset or not dataset["stage"].size:
        return None
    values = dataset["stage"].values
    known = np.flatnonzero(values >= 0)
    if not len(known):
        return None
    values, steps = values[known], dataset["step"].values[known]
    other = np.flatnonzero(values != values[-1])
    return int(steps[other[-1] + 1 if len(other) else 0])


def verdict(summary: Summary, since: int | None) -> Verdict:
    """Return what is to be said of a run first.

    Parameters
    ----------
    summary : mapping
        One run's, as `geomdiag.summary.summarise` gives it.
    since : int or None
        As `stage_since` gives it.

    Returns
    -------
    Verdict
    """
    return Verdict(_stage(summary, since), _since(summary, since), _sure(summary), _next(summary))


def _stage(summary: Summary, since: int | None) -> str:
    if not summary["checkpoints"] or summary["failed"] == summary["checkpoints"]:
        return "Nothing is known: no checkpoint of this run could be analysed."
    known = _STAGES.get(summary["stage"])
    if known is None:
        return "The stage is not known."
    if summary["stage"] == "before":
        return f"Before memorisation. {_generalised(summary)}"
    place = list(_STAGES).index(summary["stage"])
    told = f"Stage {place} of 3, {known[0]}"
    if since is not None:
        told += f", since {summary['unit']} {since}"
    return f"{told}. {_generalised(summary)}"


def _generalised(summary: Summary) -> str:
    boundary = summary["boundaries"].get("t_generalised")
    if boundary is None:
        return "Whether it generalised is not known."
    unit = summary["unit"]
    if boundary["step"] is not None:
        return f"It has generalised, at {unit} {when(boundary)}."
    return f"It has not generalised: {boundary['evidence']}." if boundary["evidence"] else (
        "It has not generalised."
    )  # fmt: skip


def _since(summary: Summary, since: int | None) -> str:
    if since is None:
        reason = summary["stage_order"]
        return f"Not known{': ' + reason if reason else ''}."
    unit = summary["unit"]
    if summary["steps"] and since == summary["steps"][0]:
        text = f"Since {unit} {since}, where the record begins, or earlier."
    else:
        text = f"Since {unit} {since}."
    boundary = summary["boundaries"].get(_STAGES.get(summary["stage"], ("", ""))[1])
    if boundary and boundary["evidence"]:
        text += f" {_sentence(boundary['evidence'])}"
    return " ".join([text, *_overlap(summary)])


def _overlap(summary: Summary) -> list[str]:
    """Return how symmetry that settles and geometry that begins stand to the stage."""
    settled, begun, over = (
        _step(summary, name) for name in ("t_acquired", "t_geometry", "t_settled")
    )
    if summary["stage"] == "symmetry_acquisition" and settled is not None:
        rest = "has not begun"
        if begun is not None:
            rest = f"began at {begun} and was lost again"
            if over is not None and over < settled:
                rest = f"had settled before, at {over}: nothing was left to organise"
        return [f"Symmetry has settled, at {summary['unit']} {settled}; geometry {rest}."]
    if summary["stage"] == "geometric_organisation" and None not in (settled, begun):
        both = f"symmetry settled at {settled}, geometry began at {begun}"
        return [f"This stage begins where both are so: {both}."]
    return []


def _sure(summary: Summary) -> str:
    told = []
    begun = [
        f"{BOUNDARIES[name]} at {when(boundary)}"
        for name, boundary in summary["boundaries"].items()
        if name in BOUNDARIES and boundary["step"] is not None
    ]
    if begun:
        told.append(_sentence(", ".join(begun)))
    tests = [
        f"{words}: p = {boundary['p_value']:.2g} against no change"
        for name, words in _PROSE.items()
        if (boundary := summary["boundaries"].get(name)) and boundary["p_value"] is not None
    ]
    if tests:
        told.append(_sentence("; ".join(tests)))
    if summary["stage_order"]:
        told.append(f"Order of the stages {_sentence(_readable(summary['stage_order']), False)}")
    if summary["disagreement"]:
        told.append("Recorded and recomputed values disagree: trust nothing here before that.")
    elif summary["compared"]:
        told.append(f"{summary['compared']} recorded losses and accuracies agree with ours.")
    if bad := summary["failed"] + summary["partial"]:
        told.append(f"{bad} of {summary['checkpoints']} checkpoints failed in part or whole.")
    return " ".join(told) or "Nothing that would tell."


def _next(summary: Summary) -> str:
    told = []
    if summary["forecast"] == "has generalised: nothing to forecast":
        settled = summary["boundaries"].get("t_settled")
        text = "It has generalised; nothing is left to forecast."
        if settled and settled["step"] is not None:
            text += f" The geometry has settled, at {summary['unit']} {when(settled)}."
        elif settled and settled["evidence"]:
            text += f" {_sentence(settled['evidence'])}"
        told.append(text)
    elif summary["forecast"]:
        told.append(_sentence("forecast " + summary["forecast"]))
    if summary["threshold"]:
        told.append(f"Symmetry threshold: {_sentence(summary['threshold'], False)}")
    return " ".join(told) or "There is no forecast in this result."


def _readable(text: str) -> str:
    for name, words in BOUNDARIES.items():
        text = text.replace(name, words)
    return text


def _sentence(text: str, capital: bool = True) -> str:
    text = text.strip().rstrip(".")
    return (text[:1].upper() + text[1:] if capital else text) + "."


def overview(summaries: Sequence[Summary]) -> str:
    """Return what is to be said of all runs together, in a few words."""
    count = len(summaries)
    runs = "1 run" if count == 1 else f"{count} runs"
    reached = [one for one in summaries if _step(one, "t_generalised") is not None]
    known = [one for one in summaries if "t_generalised" in one["boundaries"]]
    parts = []
    if known:
        parts.append(f"{len(reached)} of {len(known)} generalised")
    stages: dict[str, int] = {}
    for one in summaries:
        name = _STAGES.get(one["stage"], ("unknown stage", ""))[0]
        stages[name] = stages.get(name, 0) + 1
    parts.append(", ".join(f"{amount} in {name}" for name, amount in stages.items()))
    if doubtful := sum(bool(one["disagreement"]) for one in summaries):
        parts.append(f"{doubtful} whose recorded values disagree with ours")
    if failed := sum(one["failed"] for one in summaries):
        parts.append(f"{failed} checkpoints failed")
    return f"{runs}: {'; '.join(parts)}."


def _step(summary: Summary, boundary: str) -> int | None:
    found: int | None = summary["boundaries"].get(boundary, {}).get("step")
    return found
