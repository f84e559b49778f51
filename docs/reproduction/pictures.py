"""The figures of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reproduction.runs import CONTROL, EXPERIMENTS, Run
from reproduction.stages import EVENTS
from reproduction.threshold import drawn_symmetry, separation
from reproduction.times import Row, compare

from geomdiag.dynamics.criterion import best_threshold
from geomdiag.plots.style import settled

#: Okabe and Ito's colours, told apart by colour-blind readers; markers differ as well.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
STYLE: Any = {
    "font.size": 8.5,
    "svg.hashsalt": "geomdiag",
    "svg.fonttype": "none",  # text stays text: small files
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def figure_times(results: Sequence[list[Row]]) -> Any:
    """Draw every run's time to generalise, one panel an experiment."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    results = [rows for rows in results if any(row.runs for row in rows)]
    heights = [len(rows) for rows in results]
    figure = Figure(figsize=(7.4, 0.19 * sum(heights) + 0.62 * len(results)), layout="constrained")
    grid = figure.subplots(len(results), 1, squeeze=False, sharex=True, height_ratios=heights)
    panels = grid[:, 0]
    for axes, rows in zip(panels, results, strict=True):
        experiment = rows[0].experiment
        axes.set_title(experiment.title, loc="left", fontsize=9, fontweight="bold")
        for place, row in enumerate(rows):
            colour, marker = GREY, "o"
            if row.variant in experiment.priors:
                colour, marker = ORANGE, "s"
            elif row.variant in experiment.prompts:
                colour, marker = BLUE, "D"
            elif row.variant in dict(experiment.others):
                colour, marker = GREEN, "^"
            late = [run.last_step for run in row.runs if math.isnan(run.generalised)]
            done = [max(run.generalised, 1) for run in row.runs if not math.isnan(run.generalised)]
            axes.plot(done, [place] * len(done), marker, color=colour, ms=4, alpha=0.75, mew=0)
            # above each other, as all end with the budget
            spread = place + 0.15 * (np.arange(len(late)) - (len(late) - 1) / 2)
            axes.plot(late, spread, ">", color=colour, ms=3.5, mfc="none")
            if row.time and math.isfinite(row.time.at_most):
                axes.plot(
                    [row.time.at_most] * 2, [place - 0.4, place + 0.4], "-", color="black", lw=1
                )
        axes.set_yticks(range(len(rows)), [row.label.partition(" (")[0] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", color="#dddddd", lw=0.5)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("step from which held-out accuracy stays at 0.99")
    return figure


def figure_threshold(runs: Sequence[Run]) -> Any:
    """Draw final held-out accuracy over final violation for the reproduced tasks."""
    from matplotlib.figure import Figure

    tasks = sorted({run.task for run in runs if run.sweep in {e.sweep for e in EXPERIMENTS}})
    figure = Figure(figsize=(7.4, 1.1 + 2.1 * max(1, len(tasks))), layout="constrained")
    panels = figure.subplots(max(1, len(tasks)), 2, squeeze=False, sharey=True)
    for line, task in zip(panels, tasks, strict=False):
        own = [run for run in runs if run.task == task]
        symmetry = drawn_symmetry(task)
        for axes, statistic in zip(line, ("mean", "max"), strict=True):
            measure = f"symmetry_violation {statistic}"
            groups: dict[str, list[tuple[float, float]]] = {
                "solved": [],
                "not solved": [],
                "random labels": [],
            }
            for run in own:
                kind = "solved" if run.solved else "not solved"
                kind = "random labels" if run.random_labels else kind
                groups[kind].append((run.violation(symmetry, measure), run.accuracy))
            for (label, points), marker, colour in zip(
                groups.items(), "ox+", (BLUE, RED, GREY), strict=True
            ):
                places = np.array(points, dtype=np.float64).reshape(-1, 2).T
                axes.plot(*places, marker, color=colour, ms=4, mfc="none", label=label)
            one = separation(own, symmetry, measure)
            if one.enough:
                tau = best_threshold(one.values, one.solved)
                axes.axvline(tau, color="black", lw=0.8, ls="--", label="τ")
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_title(f"{task}: {symmetry}, {statistic}", loc="left", fontsize=9)
            axes.set_ylim(-0.05, 1.05)
            axes.grid(color="#eeeeee", lw=0.5)
        line[0].set_ylabel("final held-out accuracy")
    for axes in panels[-1]:
        axes.set_xlabel("final violation, symmetric KL, nats")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def figure_stages(results: Sequence[list[Row]]) -> Any:
    """Draw when each stage of each baseline run began."""
    from matplotlib.figure import Figure

    groups = [(rows[0].experiment.title, rows[0].runs) for rows in results if rows[0].runs]
    heights = [len(runs) for _, runs in groups]
    figure = Figure(figsize=(7.4, 0.14 * sum(heights) + 0.5 * len(groups) + 0.6))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
    panels = grid[:, 0]
    budget = max(run.last_step for _, runs in groups for run in runs)
    styles = dict(zip("MSGD", [("|", GREY), ("o", BLUE), ("D", GREEN), ("s", RED)], strict=True))
    for axes, (title, runs) in zip(panels, groups, strict=True):
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        for letter, label, name in EVENTS:
            marker, colour = styles[letter]
            times = np.maximum([getattr(run, name) for run in runs], 1)  # NaN stays NaN
            style = {"color": colour, "ms": 4.5, "mfc": "none", "label": f"{letter}: {label}"}
            axes.plot(times, range(len(runs)), marker, **style)
        axes.set_yticks(range(len(runs)), [f"seed {run.seed}" for run in runs])
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.set_xlim(10, 1.2 * budget)
        axes.grid(color="#eeeeee", lw=0.5)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("step")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


FIGURES = ("times", "threshold", "stages")


def write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the figures as SVG; the same runs give the same bytes with one matplotlib."""
    import matplotlib

    results = [compare(experiment, runs) for experiment in (*EXPERIMENTS, CONTROL)]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, figure in zip(
            FIGURES,
            (figure_times(results), figure_threshold(runs), figure_stages(results)),
            strict=True,
        ):
            paths.append(folder / f"reproduction-{name}.svg")
            with settled(figure):
                figure.savefig(paths[-1], metadata={"Date": None, "Creator": None})
    return paths
