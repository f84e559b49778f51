"""Training dynamics: accuracy, violation and dimension over steps, with the stages behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geomdiag.errors import GeomdiagError
from geomdiag.plots._results import run_name, shade_stages, step_axis, unit_of, variable
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, GREY, MARKERS, WIDTH, axes_for, legend_beside, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["FIGURE", "plot_dynamics"]

#: Boundary of a stage to plain words.
BOUNDARIES = {
    "t_memorised": "memorised",
    "t_symmetry": "symmetry begins",
    "t_generalised": "generalised",
    "t_acquired": "symmetry settled",
    "t_geometry": "geometry begins",
    "t_settled": "geometry settled",
    "t_solved": "solved",
}
_PARTS = {"train": "train", "heldout": "held-out", "all": "all inputs"}
#: Decades below the peak that a violation is followed down; what is lower stands at the edge.
_DEPTH = 7


@styled
def plot_dynamics(
    dataset: xr.Dataset, *, violation: str | None = None, ax: Sequence[Axes] | None = None
) -> list[Axes]:
    """Draw how accuracy, symmetry violation and dimension develop, and the stages.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    violation : {"symmetry_js", "symmetry_violation"}, optional
        Which violation, the mean over instances, in nats. Left out: the Jensen-Shannon one, which
        the stages are told by, or where there is none the symmetric KL one.
    ax : sequence of Axes, optional
        One for each panel: ``accuracy``, ``violation``, ``dimension``, ``boundaries``. Panels whose
        variables are missing are left out.

    Returns
    -------
    list of Axes
        The axis of violations ends 7 decades below their peak: what is smaller is a hollow
        triangle at its edge. Bars of boundaries are 90 % intervals where a segmentation set them,
        thin lines the gap between two checkpoints.

    Raises
    ------
    GeomdiagError
        If the result has none of these variables, or `ax` holds another number of Axes.

    References
    ----------
    arXiv 2603.01968, its figure 6.
    """
    if violation is None:
        violation = next((v for v in ("symmetry_js", "symmetry_violation") if v in dataset), "")
    elif violation not in dataset:
        variable(dataset, violation)
    panels = {
        "accuracy": "accuracy" in dataset,
        "violation": bool(violation),
        "dimension": "dimension" in dataset,
        "boundaries": "stage_boundary" in dataset,
    }
    names = [name for name, there in panels.items() if there]
    if not set(names) - {"boundaries"}:
        raise GeomdiagError(
            f"{run_name(dataset)}: found no accuracy, violation or dimension; expected one of "
            "them. Make the result with `geomdiag analyze`."
        )
    heights = [{"boundaries": 1.15}.get(name, 1.0) for name in names]
    drawn = axes_for(
        ax, names, (WIDTH, 0.5 + 1.55 * sum(heights)), sharex=True, height_ratios=heights
    )
    for name, one in zip(names, drawn, strict=True):
        if name == "accuracy":
            _accuracy(one, dataset)
        elif name == "violation":
            _violation(one, dataset, violation)
        elif name == "dimension":
            _dimension(one, dataset)
        else:
            _boundaries(one, dataset)
        step_axis(one, dataset["step"].values, unit_of(dataset))
        if one is not drawn[-1]:
            one.set_xlabel("")
    stages: dict[str, str] = {}
    for one in drawn:
        stages = shade_stages(one, dataset, numbered=one is drawn[0])
    last = drawn[-1]
    for label, colour in stages.items():
        last.fill_between([], [], [], color=colour, label=label)
    legend_beside(last)
    drawn[0].set_title(  # above the numbers of the stages
        f"{dataset.attrs.get('task', 'Training')}, run {run_name(dataset)}: how it learnt",
        pad=16 if stages else 6,
    )
    return drawn


def _accuracy(ax: Axes, dataset: xr.Dataset) -> None:
    steps = dataset["step"].values
    parts = [part for part in ("train", "heldout") if part in dataset["part"].values]
    for place, part in enumerate(parts or ["all"]):
        colour, label = COLOURS[place], _PARTS[part]
        quantity = f"{part}_accuracy"
        recorded = "history" in dataset and quantity in dataset["quantity"].values
        if recorded:
            curve = dataset["history"].sel(quantity=quantity).values
            ax.plot(dataset["history_step"].values, curve, color=colour, lw=0.8, alpha=0.7)
        ax.plot(
            steps,
            variable(dataset, "accuracy", part=part).values,
            MARKERS[place] + ("" if recorded else "-"),
            color=colour,
            label=label,
        )
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("accuracy")
    legend_beside(ax)


def _violation(ax: Axes, dataset: xr.Dataset, name: str) -> None:
    values = variable(dataset, name, statistic="mean")
    steps = dataset["step"].values
    peak = 0.0
    drawn: list[tuple[NDArray[np.float64], str]] = []
    for place, symmetry in enumerate(values["symmetry"].values.astype(str)):
        label = symmetry.replace("_", " ")
        if "symmetry_architectural" in dataset and bool(
            dataset["symmetry_architectural"].sel(symmetry=symmetry)
        ):
            ax.plot([], [], " ", label=f"{label} (built in)")
            continue
        own = values.sel(symmetry=symmetry).values
        peak = max(peak, float(np.nanmax(own, initial=0.0)))
        # the second round of colours has other markers
        style = f"{MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]}-"
        colour = COLOURS[place % len(COLOURS)]
        ax.plot(steps, own, style, color=colour, label=label)
        drawn.append((own, colour))
    ax.set_yscale("log", nonpositive="clip")
    if peak:
        low, high = ax.get_ylim()
        low = max(low, peak * 10.0**-_DEPTH)
        ax.set_ylim(low, min(high, 3 * peak))
        note: str | None = f"below {low:.0e}"
        for own, colour in drawn:  # what the axis does not hold, zeros too, stands at its edge
            under = own < low
            if under.any():
                ax.plot(
                    steps[under], np.full(under.sum(), low), "v", color=colour, mfc="none", ms=5,
                    clip_on=False, label=note,
                )  # fmt: skip
                note = None  # once
    ax.minorticks_off()
    kind = {"symmetry_js": "Jensen-Shannon", "symmetry_violation": "symmetric KL"}.get(name, name)
    ax.set_ylabel("violation (nat)")
    legend_beside(ax, title=kind)


def _dimension(ax: Axes, dataset: xr.Dataset) -> None:
    values = variable(dataset, "dimension", matrix="embedding", measure="effective_dimension")
    ax.plot(dataset["step"].values, values.values, "o-", color=COLOURS[0], label="embedding")
    top = float(np.nanmax(values.values, initial=1.0))
    ax.set_ylim(0, 1.08 * top)  # room for a marker at the top: the curve may lie flat there
    ax.set_ylabel("dimension\n(components)")
    legend_beside(ax)


def _boundaries(ax: Axes, dataset: xr.Dataset) -> None:
    names = dataset["boundary"].values.astype(str).tolist()
    at = dataset["stage_boundary"].values
    if "stage_boundary_interval" in dataset:
        interval = dataset["stage_boundary_interval"]
        low, high = (interval.sel(ci_bound=end).values for end in ("lower", "upper"))
        # where the lower end is missing, the record began too late: as far as it goes
        low = np.where(np.isnan(low) & ~np.isnan(high), dataset["step"].values[0], low)
        for kind, own, width, alpha in _kinds_of_interval(dataset):
            if (own & ~np.isnan(high)).any():
                ax.hlines(
                    np.flatnonzero(own), low[own], high[own], color=COLOURS[0], lw=width,
                    alpha=alpha, label=kind,
                )  # fmt: skip
    ax.plot(at, range(len(names)), "o", color=COLOURS[0], ms=4.5)
    labels = [
        BOUNDARIES.get(name, name) + ("" if np.isfinite(step) else ": none")
        for name, step in zip(names, at, strict=True)
    ]
    ax.set_yticks(range(len(names)), labels)
    for label, step in zip(ax.get_yticklabels(), at, strict=True):
        label.set_color("black" if np.isfinite(step) else GREY)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def _kinds_of_interval(
    dataset: xr.Dataset,
) -> list[tuple[str, NDArray[np.bool_], float, float]]:
    """Return what the intervals of boundaries are, which are such, their width and opacity."""
    if "stage_fact" not in dataset or "interval_prob" not in dataset["fact"].values:
        # of an earlier version, which did not tell
        return [("interval or gap", np.ones(dataset.sizes["boundary"], dtype=bool), 3.5, 0.45)]
    chance = dataset["stage_fact"].sel(fact="interval_prob").values
    gap = np.isnan(chance)
    return [
        (f"{100 * np.max(chance[~gap], initial=0.0):.0f} % interval", ~gap, 3.5, 0.45),
        ("gap between\ncheckpoints", gap, 1.4, 1.0),
    ]


FIGURE = Figure(
    "dynamics",
    plot_dynamics,
    of="run",
    about="accuracy, violation and dimension over steps, with the stages and their intervals",
)
