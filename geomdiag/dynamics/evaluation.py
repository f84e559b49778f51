"""How good forecasts are, in full: every mode and baseline on runs of tasks they did not see."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.dynamics.backtest import (
    BASELINES,
    Alarm,
    Forecasts,
    Score,
    alarms,
    backtest,
    extrapolated,
    factor_of_now,
    generalises,
    onsets_alone,
    score,
)
from geomdiag.dynamics.corpus import runs_of
from geomdiag.dynamics.criterion import auroc
from geomdiag.dynamics.forecaster import (
    MODES,
    QUANTILES,
    Cases,
    Forecaster,
    cases_of,
    chance_at,
    fit_forecaster,
    hazard_on,
)
from geomdiag.errors import GeomdiagError

__all__ = ["Evaluation", "Judged", "evaluate", "fit_forecasters", "reliability"]

FloatArray = NDArray[np.float64]

#: Shares of a run's budget after which it is asked which runs will generalise.
ASKED_AT = (0.05, 0.1, 0.25, 0.5)
#: A run generalised late when its onset is at so many times the step of memorisation.
DELAYED = 2.0
#: Name of the baseline that knows only when runs of the corpus generalised.
ONSETS = "distribution of onsets"
#: Name of the baseline that knows nothing, and shows what an error at half-way is worth.
TWICE = "always twice the present step"
#: Factors on the step for which chances are held against what happened.
RELIABILITY_AT = (2.0, 5.0)
#: Folds of configurations: one model for each of some hundred would tell the same.
CONFIGURATION_FOLDS = 16
#: Tasks that an evaluation needs: the calibration leaves out some of the rest again.
LEAST_TASKS = 3


@dataclass(frozen=True, eq=False)
class Judged:
    """Forecasts by one method and what they are worth.

    Attributes
    ----------
    name : str
        Method.
    score : Score
        On runs that generalised.
    delayed : Score
        On those of them that generalised late: at `DELAYED` times the step at which they had
        memorised, or later.
    alarms : list of Alarm
        Achieved against requested rates.
    lowest : float
        See `geomdiag.dynamics.backtest.alarms`.
    asked, asked_hard : dict of float to (float, int, int)
        Share of the budget → AUROC of the forecast chance at that moment, runs that went on to
        generalise, runs that did not; runs that had generalised by then do not count. The hard
        ones among those that did not end above a held-out accuracy of one half.
    forecasts : Forecasts
        What was judged.
    """

    name: str
    score: Score
    delayed: Score
    alarms: list[Alarm]
    lowest: float
    asked: dict[float, tuple[float, int, int]]
    asked_hard: dict[float, tuple[float, int, int]]
    forecasts: Forecasts


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that `evaluate` found.

    Attributes
    ----------
    cases : dict of str to Cases
        Moments, for each mode.
    tasks : dict of str to Judged
        Methods, on tasks that were left out as a whole.
    configurations : dict of str to Judged
        The modes, on configurations that were left out.
    by_task : dict of str to dict of str to Score
        Mode → task → score, of tasks with at least one run that generalised.
    runs, hopeful, tasks_count, settings : int
        Size of the corpus: runs, those that generalised, tasks, configurations.
    """

    cases: dict[str, Cases]
    tasks: dict[str, Judged]
    configurations: dict[str, Judged]
    by_task: dict[str, dict[str, Score]]
    runs: int
    hopeful: int
    tasks_count: int
    settings: int


def evaluate(
    corpus: xr.Dataset, *, workers: int = 1, progress: Callable[[str], None] | None = None
) -> Evaluation:
    """Judge every mode and baseline by rolling-origin backtests.

    Parameters
    ----------
    corpus : xr.Dataset
        As `geomdiag.dynamics.corpus.collect` gives it.
    workers : int
        Processes, of one thread each. The result does not depend on it.
    progress : callable, optional
        Called with what was judged.

    Returns
    -------
    Evaluation

    Raises
    ------
    GeomdiagError
        If there are fewer than three tasks, or the runs all generalise, or none does.
    """
    tell = progress or (lambda _: None)
    tasks = np.unique(corpus["task"].values)
    onset, memorised = corpus["t_generalised"].values, corpus["t_memorised"].values
    hopeful = int((~np.isnan(onset)).sum())
    if len(tasks) < LEAST_TASKS or not 0 < hopeful < corpus.sizes["run"]:
        raise GeomdiagError(
            f"found {len(tasks)} tasks and {hopeful} of {corpus.sizes['run']} runs that "
            f"generalised; an evaluation needs {LEAST_TASKS} tasks, and runs of both kinds"
        )
    cases = {mode: cases_of(corpus, mode) for mode in MODES}
    drawn = extrapolated(cases["losses"])
    jobs = [(mode, own, own.names, "task") for mode, own in cases.items()]
    jobs += [(mode, own, own.names, "setting") for mode, own in cases.items()]
    jobs += [(name, drawn, features, "task") for name, features in BASELINES.items()]
    jobs += [(ONSETS, drawn, (), "task"), (TWICE, drawn, (), "task")]
    delayed = onset >= DELAYED * memorised
    easy = np.isnan(onset) & ~(_last_accuracy(corpus) > 0.5)
    by_tasks: dict[str, Judged] = {}
    by_configurations: dict[str, Judged] = {}
    for (name, own, _, groups), found in zip(jobs, _forecasts(jobs, workers), strict=True):
        tell(f"{name}, {groups}s left out")
        judged = _judged(name, found, own, getattr(own, groups), delayed, easy)
        (by_tasks if groups == "task" else by_configurations)[name] = judged
    return Evaluation(
        cases=cases,
        tasks=by_tasks,
        configurations=by_configurations,
        by_task={
            mode: {
                str(task): score(by_tasks[mode].forecasts.of(rows), own.of(rows))
                for task in tasks
                if not np.isnan(own.growth[rows := own.task == task]).all()
            }
            for mode, own in cases.items()
        },
        runs=corpus.sizes["run"],
        hopeful=hopeful,
        tasks_count=len(tasks),
        settings=len(np.unique(corpus["setting"].values)),
    )


def _last_accuracy(corpus: xr.Dataset) -> FloatArray:
    """Return the held-out accuracy that each run ends at."""
    last = [rows.stop - 1 for rows in runs_of(corpus)]
    name = "accuracy[heldout]"
    if name not in corpus["signal"].values:
        return np.full(corpus.sizes["run"], np.nan)
    found: FloatArray = corpus["value"].sel(signal=name).values[last].astype(np.float64)
    return found


_Job = tuple[str, Cases, tuple[str, ...], str]


def _forecasts(jobs: Sequence[_Job], workers: int) -> Iterator[Forecasts]:
    if workers == 1:
        yield from map(_forecast, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        yield from pool.map(_forecast, jobs)


def _forecast(job: _Job) -> Forecasts:
    from threadpoolctl import threadpool_limits

    name, cases, features, groups = job
    if name == TWICE:
        survival = factor_of_now(cases, 2.0)
        return Forecasts(survival, survival, np.tile(QUANTILES, (len(survival), 1)))
    fit = onsets_alone if name == ONSETS else hazard_on(features)
    folds = CONFIGURATION_FOLDS if groups == "setting" else None
    with threadpool_limits(1):
        return backtest(cases, fit, getattr(cases, groups), folds=folds)


def _judged(
    name: str,
    forecasts: Forecasts,
    cases: Cases,
    groups: NDArray[np.str_],
    delayed: NDArray[np.bool_],
    easy: NDArray[np.bool_],
) -> Judged:
    survival = forecasts.survival
    found, lowest, _ = alarms(survival, cases, groups)
    late, hard = delayed[cases.run], ~easy[cases.run]
    return Judged(
        name=name,
        score=score(forecasts, cases),
        delayed=score(forecasts.of(late), cases.of(late)),
        alarms=found,
        lowest=lowest,
        asked={share: _asked(survival, cases, share) for share in ASKED_AT},
        asked_hard={share: _asked(survival[hard], cases.of(hard), share) for share in ASKED_AT},
        forecasts=forecasts,
    )


def _asked(survival: FloatArray, cases: Cases, share: float) -> tuple[float, int, int]:
    """Return AUROC at a share of each run's budget, and the runs of both kinds."""
    survival, cases = survival[cases.judged], cases.of(cases.judged)
    chance = generalises(survival, cases)
    # of each run the last moment before that share; later onsets only
    before = np.exp(-cases.seen) <= share
    still = np.isnan(cases.growth) | (cases.growth - cases.seen > math.log(share))
    rows = np.flatnonzero(before & still)
    _, first = np.unique(cases.run[rows][::-1], return_index=True)
    last = rows[::-1][first]
    happened = ~np.isnan(cases.growth[last])
    return auroc(chance[last], happened), int(happened.sum()), int((~happened).sum())


def reliability(
    survival: FloatArray, cases: Cases, factor: float, *, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Return forecast chances against how often it happened.

    Parameters
    ----------
    survival : (n, k + 1) float array
        Forecasts.
    cases : Cases
        What became of them; moments whose run was not planned to last until the horizon do not
        count, whatever happened.
    factor : float
        Horizon, as a factor on the step.
    bins : int
        Bins of equal width.

    Returns
    -------
    list of (float, float, int)
        Mean chance, share that had happened, and number of moments of each bin that is not empty.
    """
    horizon = math.log(factor)
    happened = ~np.isnan(cases.growth) & (cases.growth <= horizon)
    known = (cases.seen >= horizon) & cases.judged
    chance = chance_at(survival, np.full(len(survival), horizon))[known]
    happened = happened[known]
    place = np.minimum((chance * bins).astype(int), bins - 1)
    return [
        (float(chance[rows].mean()), float(happened[rows].mean()), int(rows.sum()))
        for one in range(bins)
        if (rows := place == one).any()
    ]


def fit_forecasters(corpus: xr.Dataset) -> dict[str, Forecaster]:
    """Fit a forecaster for each mode to all runs of a corpus.

    Parameters
    ----------
    corpus : xr.Dataset
        As `geomdiag.dynamics.corpus.collect` gives it.

    Returns
    -------
    dict of str to Forecaster
    """
    return {mode: fit_forecaster(cases_of(corpus, mode), mode) for mode in MODES}


# --- in words ----------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def scores_table(scores: Mapping[str, Score]) -> str:
    """Return the scores of methods as a Markdown table."""
    rows = [
        [
            name,
            _share(one.coverage_50),
            _share(one.coverage_90),
            _number(one.width_90, 1),
            _number(one.crps, 3),
            _number(one.crps_all, 3),
            *(_number(error) for error in one.error.values()),
            _number(one.lead),
        ]
        for name, one in scores.items()
    ]
    shares = [f"{share:.0%}" for share in next(iter(scores.values())).error]
    head = ["method", "50 %", "90 %", "width", "CRPS", "CRPS, all", *shares, "useful from"]
    return table(head, rows)


def alarms_table(judged: Mapping[str, Judged]) -> str:
    """Return achieved against requested false alarms as a Markdown table."""
    rates = [f"{one.requested:.0%}" for one in next(iter(judged.values())).alarms]
    rows = [
        [
            name,
            *(f"{one.false:.0%} ({one.hit:.0%})" for one in own.alarms),
            f"{own.lowest:.1%}",
        ]
        for name, own in judged.items()
    ]
    return table(["method", *rates, "lowest"], rows)


def asked_table(asked: Mapping[str, Mapping[float, tuple[float, int, int]]]) -> str:
    """Return the AUROC at shares of the budget as a Markdown table."""
    first = next(iter(asked.values()))
    head = [f"{share:.0%} ({good}:{bad})" for share, (_, good, bad) in first.items()]
    rows = [
        [name, *(_number(value) for value, _, _ in own.values())] for name, own in asked.items()
    ]
    return table(["method", *head], rows)


def tasks_table(by_task: Mapping[str, Mapping[str, Score]]) -> str:
    """Return coverage and error of every left-out task as a Markdown table."""
    rows = []
    for task in next(iter(by_task.values())):
        cells = [task, str(next(iter(by_task.values()))[task].runs)]
        for mode in by_task:
            one = by_task[mode][task]
            cells += [_share(one.coverage_90), _number(one.error[0.5])]
        rows.append(cells)
    modes = [words for mode in by_task for words in (f"90 %, {mode}", f"error at half, {mode}")]
    return table(["task", "runs", *modes], rows)
