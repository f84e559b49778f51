"""How well the final violation of a symmetry tells solved runs from others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from reproduction.runs import MEASURES, SHOWN, Run
from reproduction.statistics import auroc, auroc_interval, leave_one_seed_out
from reproduction.words import count, listed, paragraph

from geomdiag.dynamics.criterion import best_threshold

#: Fewest runs on each side that an AUROC is given for.
FEWEST = 3


@dataclass(frozen=True)
class Separation:
    """How well a final violation tells solved runs from others."""

    values: NDArray[np.float64]
    solved: NDArray[np.bool_]
    seeds: NDArray[np.int64]
    logit_scale: NDArray[np.float64]
    settings: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        """Whether there are runs on both sides."""
        return min(int(self.solved.sum()), int((~self.solved).sum())) >= FEWEST

    @property
    def auroc(self) -> float:
        """AUROC of the negative violation for solved."""
        return auroc(self.values[self.solved], self.values[~self.solved])

    @property
    def words(self) -> str:
        """AUROC and interval."""
        if not self.enough:
            return "–"
        low, high = auroc_interval(self.auroc, int(self.solved.sum()), int((~self.solved).sum()))
        return f"{self.auroc:.3f} [{low:.2f}, {high:.2f}]"


def separation(runs: Iterable[Run], symmetry: str, measure: str) -> Separation:
    """Return the runs that have a final violation and a final held-out accuracy."""
    kept = [
        run
        for run in runs
        if not (math.isnan(run.violation(symmetry, measure)) or math.isnan(run.accuracy))
    ]
    return Separation(
        np.array([run.violation(symmetry, measure) for run in kept]),
        np.array([run.solved for run in kept], dtype=np.bool_),
        np.array([run.seed for run in kept], dtype=np.int64),
        np.array([run.final.get("logit_scale", math.nan) for run in kept]),
        [run.setting for run in kept],
    )


def within(runs: Sequence[Run], symmetry: str, measure: str) -> str:
    """Return the AUROC over the pairs of runs of one task each, of all tasks."""
    areas, weights = [], []
    for task in sorted({run.task for run in runs}):
        one = separation((run for run in runs if run.task == task), symmetry, measure)
        if one.solved.any() and not one.solved.all():
            areas.append(one.auroc)
            weights.append(int(one.solved.sum()) * int((~one.solved).sum()))
    return f"{np.average(areas, weights=weights):.3f}" if areas else "–"


def symmetries(runs: Iterable[Run]) -> list[str]:
    """Return the symmetries that some of the runs had to learn."""
    return sorted({symmetry for run in runs for symmetry in run.learnt})


def threshold_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Return a line for each task and symmetry, for each symmetry over its tasks then."""
    rows = []
    for task in sorted({run.task for run in runs}):
        own = [run for run in runs if run.task == task]
        for symmetry in symmetries(own):
            found = [separation(own, symmetry, measure) for measure in MEASURES]
            n, solved = len(found[0].solved), int(found[0].solved.sum())
            if found[0].enough:
                rows.append(
                    [f"{task}: {symmetry}", str(solved), str(n - solved), *(s.words for s in found)]
                )
    for symmetry in symmetries(runs):
        found = [separation(runs, symmetry, measure) for measure in MEASURES]
        n, solved = len(found[0].solved), int(found[0].solved.sum())
        if found[0].enough and len({r.task for r in runs if symmetry in r.learnt}) > 1:
            name, counts = f"**all tasks: {symmetry}**", [str(solved), str(n - solved)]
            rows.append([f"{name}, one scale", *counts, *(s.words for s in found)])
            inside = [within(runs, symmetry, measure) for measure in MEASURES]
            rows.append([f"{name}, pairs of one task", *counts, *inside])
    return rows


THRESHOLD_HEADER = ("task: symmetry", "solved", "not", *MEASURES.values())


def baseline_share(one: Separation) -> float:
    """Return how often "always the commoner answer" is right."""
    share = float(one.solved.mean())
    return max(share, 1 - share)


def tau_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Return the best threshold on the mean and the maximum for each task and symmetry."""
    rows = []
    for task in sorted({run.task for run in runs}):
        own = [run for run in runs if run.task == task]
        for symmetry in symmetries(own):
            one, largest = (
                separation(own, symmetry, f"symmetry_violation {name}") for name in ("mean", "max")
            )
            if not (one.enough and largest.enough):
                continue
            cells = [f"{task}: {symmetry}", str(len(one.values))]
            for each in (one, largest):
                tau = best_threshold(each.values, each.solved)
                rate = leave_one_seed_out(each.values, each.solved, each.seeds)
                cells += [f"{tau:.2g}", f"{rate:.1%}"]
            below = one.values[~one.solved] < best_threshold(one.values, one.solved)
            rows.append([*cells, f"{baseline_share(one):.1%}", f"{below.sum()}/{len(below)}"])
    return rows


def all_areas(runs: Sequence[Run], measure: str) -> list[float]:
    """Return the AUROC of a measure for every task and symmetry that has one."""
    areas = []
    for task in sorted({run.task for run in runs}):
        own = [run for run in runs if run.task == task]
        found = (separation(own, symmetry, measure) for symmetry in symmetries(own))
        areas += [one.auroc for one in found if one.enough]
    return areas


def which_measure(runs: Sequence[Run]) -> str:
    """Return how the four measures compare over all tasks and symmetries."""
    found = {name: all_areas(runs, measure) for measure, name in MEASURES.items()}
    pairs = len(found["mean KL"])
    areas = {name: area for name, area in found.items() if area and len(area) == pairs}
    if not areas:
        return "no task has enough runs on both sides"
    medians = listed([f"{name} {np.median(area):.3f}" for name, area in areas.items()])
    text = f"median AUROC over {count(pairs, 'pair')} of task and symmetry: {medians}"
    for one, other in (("mean KL", "max KL"), ("mean JS", "mean KL")):
        if {one, other} <= set(areas):
            better = sum(a >= b for a, b in zip(areas[one], areas[other], strict=True))
            text += f"; the {one} is no worse than the {other} in {better} of {pairs}"
    return text


def looks_symmetric(runs: Sequence[Run]) -> str:
    """Return which unsolved runs, and which untrained networks, are below the thresholds."""
    low: dict[str, list[str]] = {}
    flat, unsolved, before, known = 0, 0, 0, 0
    for task in sorted({run.task for run in runs}):
        own = [run for run in runs if run.task == task]
        symmetry = drawn_symmetry(task)
        one = separation(own, symmetry, "symmetry_violation mean")
        if not one.enough:
            continue
        tau = best_threshold(one.values, one.solved)
        below = (one.values < tau) & ~one.solved
        unsolved += int((~one.solved).sum())
        flat += int((one.logit_scale[below] < 0.5 * np.median(one.logit_scale[one.solved])).sum())
        for place in np.flatnonzero(below):
            low.setdefault(task, []).append(one.settings[place].partition("+")[2] or "baseline")
        start = [run.first.get(f"symmetry_violation[{symmetry},mean]", math.nan) for run in own]
        before += sum(value < tau for value in start)
        known += sum(not math.isnan(value) for value in start)
    if not unsolved:
        return ""
    names = [
        f"{task}: "
        + listed([f"{name} {len(list(group))}" for name, group in groupby(sorted(variants))])
        for task, variants in low.items()
    ]
    total = sum(map(len, low.values()))
    where = f" ({'; '.join(names)})" if names else ""
    return paragraph(
        f"A small violation is not enough. {total} of the {unsolved} unsolved runs lie below τ of "
        f"the mean{where}; in {flat or 'none'} of them the logit scale is less than half the "
        "median of their task's solved runs. Outputs that hardly differ agree with each other, "
        f"whatever the network knows: at the first checkpoint, before training, {before} of "
        f"{count(known, 'network')} lie below τ. The threshold says nothing until train inputs are "
        "learnt. (Symmetry: that of the figure, associativity for tasks that are not in it.)"
    )


def drawn_symmetry(task: str) -> str:
    """Return the symmetry that stands for a task where only one is shown."""
    return SHOWN.get(task.partition(":")[0], "associativity")
