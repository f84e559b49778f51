"""The page that says how good forecasts are: every number of it comes from an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from geomdiag.dynamics.evaluation import (
    CONFIGURATION_FOLDS,
    DELAYED,
    RELIABILITY_AT,
    TWICE,
    Evaluation,
    Judged,
    alarms_table,
    asked_table,
    reliability,
    scores_table,
    table,
    tasks_table,
)
from geomdiag.dynamics.forecaster import MODES

__all__ = ["page", "verdicts"]

#: What was expected of forecasts before they were made.
COVERED = (0.85, 0.95)
ERROR_AT_HALF = 0.25
FALSE_ALARMS = 0.05
LABEL_FREE = 1.5
#: Among the alarms, the requested rate that the expectation is about.
_REQUESTED = 0.05

_MODES = tuple(MODES)


def _baselines(evaluation: Evaluation) -> dict[str, Judged]:
    """Return the baselines that know something."""
    return {name: one for name, one in evaluation.tasks.items() if name not in (*_MODES, TWICE)}


def verdicts(evaluation: Evaluation) -> list[tuple[str, bool, str]]:
    """Return what was expected, whether it was reached, and by how much.

    Parameters
    ----------
    evaluation : Evaluation
        As `geomdiag.dynamics.evaluation.evaluate` gives it.

    Returns
    -------
    list of (str, bool, str)
        Expectation, whether it holds for both modes, and the numbers.
    """
    judged = {mode: evaluation.tasks[mode] for mode in _MODES}
    found = []

    covered = {mode: one.score.coverage_90 for mode, one in judged.items()}
    found.append(
        (
            f"90 % intervals cover {COVERED[0]:.0%} to {COVERED[1]:.0%} on left-out tasks",
            all(COVERED[0] <= share <= COVERED[1] for share in covered.values()),
            ", ".join(f"{share:.1%} from {mode}" for mode, share in covered.items()),
        )
    )
    error = {mode: one.score.error[0.5] for mode, one in judged.items()}
    found.append(
        (
            f"median relative error at half-way at most {ERROR_AT_HALF}",
            all(value <= ERROR_AT_HALF for value in error.values()),
            ", ".join(f"{value:.2f} from {mode}" for mode, value in error.items()),
        )
    )
    others = {name: one.score.error[0.5] for name, one in _baselines(evaluation).items()}
    best = min(others, key=lambda name: others[name])
    found.append(
        (
            "and below that of every baseline",
            all(value < others[best] for value in error.values()),
            f"best baseline: {best}, {others[best]:.2f}; {TWICE} has "
            f"{evaluation.tasks[TWICE].score.error[0.5]:.2f}, see below",
        )
    )
    scored = {name: one.score.crps_all for name, one in _baselines(evaluation).items()}
    best = min(scored, key=lambda name: scored[name])
    own = {mode: one.score.crps_all for mode, one in judged.items()}
    found.append(
        (
            "CRPS over all runs below that of every baseline",
            all(value < scored[best] for value in own.values()),
            ", ".join(f"{value:.3f} from {mode}" for mode, value in own.items())
            + f"; best baseline: {best}, {scored[best]:.3f}",
        )
    )
    alarm = {
        mode: next(a for a in one.alarms if a.requested == _REQUESTED)
        for mode, one in judged.items()
    }
    found.append(
        (
            f"at most {FALSE_ALARMS:.0%} false alarms when {_REQUESTED:.0%} are asked for",
            all(one.false <= FALSE_ALARMS for one in alarm.values()),
            ", ".join(
                f"{one.false:.1%} from {mode} ({one.hit:.0%} of the others announced)"
                for mode, one in alarm.items()
            ),
        )
    )
    late = {mode: one.delayed.error[0.5] for mode, one in judged.items()}
    found.insert(
        2,
        (
            "the same on runs that generalised late",
            all(value <= ERROR_AT_HALF for value in late.values()),
            ", ".join(f"{value:.2f} from {mode}" for mode, value in late.items()),
        ),
    )
    ratio = error["geometry"] / error["losses"] if error["losses"] else math.inf
    found.append(
        (
            f"without labels within {LABEL_FREE} times the error with losses",
            ratio <= LABEL_FREE,
            f"{ratio:.2f} times at half-way",
        )
    )
    return found


def page(
    evaluation: Evaluation, *, source: str, command: str, pictures: Mapping[str, str] | None = None
) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    evaluation : Evaluation
        What was found.
    source : str
        Name of the corpus.
    command : str
        Command that made the page.
    pictures : mapping of str to str, optional
        Name of a picture (error, reliability, alarms) to its place.

    Returns
    -------
    str
    """
    pictures = pictures or {}
    hopeless = evaluation.runs - evaluation.hopeful
    delayed = evaluation.tasks["losses"].delayed.runs
    parts = [
        "# How good the forecasts are",
        f"Written by `{command}` from {source}: {evaluation.runs} runs of {evaluation.tasks_count} "
        f"tasks in {evaluation.settings} configurations. {evaluation.hopeful} of them generalised "
        f"within their budget, {hopeless} did not.",
        "Every forecast below was made by a model that was fitted and calibrated without the task "
        "it is judged on (in one table, without the configuration), from checkpoints up to its own "
        "step. A run counts as generalised from the step at which its held-out accuracy stays at "
        "or above 0.99. Runs that did not generalise are censored at their last step. Judged are "
        "steps that all runs of a configuration have a checkpoint of: the others were kept because "
        "held-out accuracy or loss moved there.",
        "The kind of model, its features and its few settings were chosen by such scores on most "
        "of these tasks ([what was tried](forecast.md#what-was-tried)), so that all of them are "
        "somewhat optimistic; by how much is not known.",
        "## What was expected, and what came",
        table(
            ["expectation", "reached", "found"],
            [[what, "yes" if held else "**no**", how] for what, held, how in verdicts(evaluation)],
        ),
        "## Scores on left-out tasks",
        "Over runs that generalised, each counting alike. *50 %, 90 %*: share of moments at which "
        "the interval (given that it generalises within 24.5 times the step) held an onset "
        "that was within that reach; *width*: median factor between "
        "the ends of the 90 % interval. *CRPS*: continuous ranked probability score of the whole "
        "forecast in log-steps, differences beyond a factor of 24.5 left out; *all*: over all "
        "runs, those that did not generalise as far as they were watched. *30 % to 90 %*: median "
        "relative error of the median at that share of the way to the onset, in steps. *useful "
        "from*: median share of the way from which the error stays within 25 %.",
        "The moments of these errors are chosen by the onset, which nobody knows at that time: a "
        "row that always says twice the present step is right at half-way, and wrong everywhere "
        "else. Compare CRPS, or all four errors.",
        "*geometry* looks at symmetry violations, ranks, norms, the spectrum and distances of the "
        "embedding, *losses* also at losses and accuracies. The other rows are the baselines: the "
        "corpus' onsets beyond the present step, and the same survival model on elapsed steps "
        "alone, on spectral measures of the embedding alone, and on the step at which a straight "
        "line through held-out loss or accuracy (over the logarithm of the step) arrives. Their "
        "chances and intervals are calibrated in the same way.",
        scores_table({name: one.score for name, one in evaluation.tasks.items()}),
        _picture(pictures, "error", "Relative error on the way to the onset."),
        "### Runs with a delay to forecast",
        f"{delayed} of the runs generalised late: at {DELAYED:g} times the step at which they had "
        "memorised or later. The others generalise while they memorise, or soon after a symmetry "
        "prompt; half-way is then a step at which next to nothing has been seen.",
        scores_table({name: one.delayed for name, one in evaluation.tasks.items()}),
        "## Scores on left-out configurations",
        "Runs of the same task, but not of the same network, optimiser, data and intervention, "
        f"took part in the fit ({evaluation.settings} configurations, dealt into "
        f"{CONFIGURATION_FOLDS} parts that were left out in turn).",
        scores_table({name: one.score for name, one in evaluation.configurations.items()}),
        "## Task by task",
        _over_tasks(evaluation),
        tasks_table(evaluation.by_task),
        "## Will it generalise at all?",
        "AUROC of the forecast chance that a run generalises within its budget, after a share of "
        "the budget (runs that went on to generalise : runs that did not). 0.5 is no information. "
        "A published spectral diagnostic reaches 0.93 on modular addition alone "
        "(arXiv 2605.08237), at another moment and on other runs.",
        asked_table({name: one.asked for name, one in evaluation.tasks.items()}),
        "Random labels and too little data are easy to tell. Against those runs alone that did not "
        "generalise but ended above a held-out accuracy of one half:",
        asked_table({name: one.asked_hard for name, one in evaluation.tasks.items()}),
        "## False alarms",
        "A run is announced once its chance exceeds a level, at any of its steps. The level is set "
        "on the hopeless runs of the other tasks, for a requested share of them; in the table, the "
        "share of hopeless runs of the left-out tasks that was announced, and in parentheses that "
        "of the others announced before they generalised. The forecasts that set the level come "
        "from models that knew the task in question; those that are judged do not. *lowest*: with "
        "one level for all tasks, the share of false alarms at which half of the others are "
        "announced.",
        alarms_table(evaluation.tasks),
        _picture(pictures, "alarms", "Achieved against requested rates of false alarms."),
        "## Do chances mean what they say?",
        "Forecast chance of having generalised at a multiple of the present step, against how "
        "often it came (left-out tasks; moments whose run was not planned to last until that step "
        "do not count).",
        _reliability(evaluation),
        _picture(pictures, "reliability", "Reliability."),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(pictures: Mapping[str, str], name: str, words: str) -> str:
    return f"![{words}]({pictures[name]})" if name in pictures else ""


def _over_tasks(evaluation: Evaluation) -> str:
    told = []
    for mode, scores in evaluation.by_task.items():
        covered = [one.coverage_90 for one in scores.values()]
        errors = [one.error[0.5] for one in scores.values()]
        told.append(
            f"{mode}: coverage of the 90 % interval {sum(covered) / len(covered):.0%} "
            f"({min(covered):.0%} to {max(covered):.0%}), median over tasks of the error at "
            f"half-way {sorted(errors)[len(errors) // 2]:.2f}"
        )
    return (
        "Runs of one task are alike, and some tasks have many more than others. Over tasks, each "
        f"counting alike: {'; '.join(told)}."
    )


def _reliability(evaluation: Evaluation) -> str:
    rows = []
    for mode in _MODES:
        for factor in RELIABILITY_AT:
            points = reliability(
                evaluation.tasks[mode].forecasts.survival, evaluation.cases[mode], factor, bins=5
            )
            by_bin = {min(int(chance * 5), 4): (chance, share, n) for chance, share, n in points}
            cells = [
                f"{by_bin[i][0]:.0%} → {by_bin[i][1]:.0%} ({by_bin[i][2]})" if i in by_bin else "–"
                for i in range(5)
            ]
            rows.append([mode, f"{factor:g} ×", *cells])
    head = ["mode", "horizon", *(f"{20 * i} to {20 * i + 20} %" for i in range(5))]
    return table(head, rows)
