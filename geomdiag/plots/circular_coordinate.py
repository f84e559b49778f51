"""The angle along the embedding's longest loop against the task's phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from geomdiag.errors import GeomdiagError
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, GREY, WIDTH, axes_for, legend_beside, styled
from geomdiag.plots.tokens import tokens_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geomdiag.models.snapshot import Snapshot

__all__ = ["FIGURE", "plot_circular_coordinate"]


@styled
def plot_circular_coordinate(
    angles: ArrayLike,
    phases: ArrayLike,
    *,
    phase_label: str = "phase (rad)",
    title: str = "Angle along the longest loop",
    ax: Axes | None = None,
) -> Axes:
    """Draw the circular coordinate of each token over its phase.

    Parameters
    ----------
    angles : (n,) float array
        Circular coordinate, radians, as `geomdiag.circular_coordinate` gives it.
    phases : (n,) float array
        The task's phase, radians.
    phase_label : str
        What the phase is, with its unit.
    title : str
        Title.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        A coordinate is known up to its origin and direction; those are chosen that agree best
        with the phase, and each angle is shown by the turn that is nearest the line.

    Raises
    ------
    GeomdiagError
        If the shapes differ or an angle is missing.
    """
    theta, phi = np.asarray(angles, dtype=np.float64), np.asarray(phases, dtype=np.float64)
    if theta.ndim != 1 or theta.shape != phi.shape:
        raise GeomdiagError(
            f"angles of shape {theta.shape} and phases of shape {phi.shape}; expected one of each "
            "for every token"
        )
    if not np.isfinite(theta).all():
        raise GeomdiagError(
            "the angles are missing: the embedding has no loop at this step; draw a later one"
        )
    means = [np.exp(1j * (sign * theta - phi)).mean() for sign in (1, -1)]
    sign = 1 if abs(means[0]) >= abs(means[1]) else -1
    mean = means[0 if sign == 1 else 1]
    # what is left after origin and direction are agreed on, in (-π, π]
    error = np.angle(np.exp(1j * (sign * theta - phi - np.angle(mean))))
    phi = phi % (2 * np.pi)
    (one,) = axes_for(ax, ["circular coordinate"], (WIDTH, 4.6))
    one.plot([0, 2 * np.pi], [0, 2 * np.pi], color=GREY, lw=0.8, label="same angle")
    one.plot(phi, phi + error, "o", color=COLOURS[0], ms=5, alpha=0.8, label="token")
    ticks = np.arange(-1, 4) * np.pi
    shown = ticks[(ticks >= min(0, (phi + error).min())) & (ticks <= max(6.3, (phi + error).max()))]
    one.set_xticks([0, np.pi, 2 * np.pi], ["0", "π", "2π"])
    names = {-1: "−π", 0: "0", 1: "π"}
    one.set_yticks(shown, [names.get(n := round(t / np.pi), f"{n}π") for t in shown])
    one.set_xlabel(phase_label)
    one.set_ylabel("angle along the longest loop (rad)")
    one.set_title(title)
    legend_beside(one, title=f"agreement {abs(mean):.2f}\n(1: the same)")
    return one


def _of_snapshot(snapshot: Snapshot, *, ax: Axes | None = None) -> Axes:
    from geomdiag.metrics.topology import circular_coordinate

    tokens = tokens_of(snapshot)
    if not tokens.cyclic:
        raise GeomdiagError(
            f"the tokens of {snapshot.task.name} form no abelian group: there is no phase that a "
            "loop could follow. Draw the figure `embedding` or `shepard`."
        )
    inside = np.isfinite(tokens.colour)
    return plot_circular_coordinate(
        circular_coordinate(tokens.points[inside]),
        tokens.colour[inside],
        phase_label=f"{tokens.colour_label} of the token",
        title=f"Longest loop: {tokens.title}",
        ax=ax,
    )


FIGURE = Figure(
    "circular-coordinate",
    _of_snapshot,
    of="checkpoint",
    about="angle along the embedding's longest loop against the task's phase",
    takes=("step",),
)
