"""The Shepard diagram: distances in the embedding against the task's own."""

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

__all__ = ["FIGURE", "plot_shepard"]

#: Pairs beyond which single ones are written as an image, even in an SVG.
MANY = 2000


@styled
def plot_shepard(
    points: ArrayLike,
    metric: ArrayLike,
    *,
    title: str = "Distances in the embedding and in the task",
    ax: Axes | None = None,
) -> Axes:
    """Draw every pair's distance in the embedding over its distance in the task.

    Parameters
    ----------
    points : (n, d) float array
        Rows are tokens.
    metric : (n, n) float array
        The task's distances; pairs that are not connected (infinite) are left out.
    title : str
        Title.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Beside the pairs: the median at each of the task's distances, with quartiles, and the line
        through 0 that Kruskal's stress is reckoned from.

    Raises
    ------
    GeomdiagError
        If the shapes differ, the points are not finite or no pair is connected.

    References
    ----------
    Kruskal 1964, doi 10.1007/BF02289565.
    """
    from geomdiag.metrics.distortion import distortion

    places, apart = np.asarray(points, dtype=np.float64), np.asarray(metric, dtype=np.float64)
    if places.ndim != 2 or apart.shape != (len(places),) * 2 or not np.isfinite(places).all():
        raise GeomdiagError(
            f"points of shape {places.shape} and a metric of shape {apart.shape}; expected finite "
            "(n, d) and (n, n)"
        )
    first, second = np.triu_indices(len(places), 1)
    d = np.linalg.norm(places[first] - places[second], axis=1)
    g = apart[first, second]
    connected = np.isfinite(g)
    if not connected.any():
        raise GeomdiagError("the metric connects no two tokens; expected finite distances")
    d, g = d[connected], g[connected]
    measured = distortion(places, apart)
    (one,) = axes_for(ax, ["distances"], (WIDTH, 4.2))
    levels = np.unique(np.round(g, 9))
    width = float(np.diff(levels).min()) if len(levels) > 1 else 1.0
    # spread sideways, so that pairs at one distance do not hide each other; fixed, not random
    aside = (np.arange(len(g)) * 0.6180339887 % 1.0 - 0.5) * 0.5 * width
    one.plot(
        g + aside, d, "o", color=COLOURS[0], ms=2.5, alpha=0.4, mew=0, label="pair of tokens",
        rasterized=len(g) > MANY,
    )  # fmt: skip
    if len(levels) <= 60:
        own = [d[np.isclose(g, level)] for level in levels]
        low, middle, high = np.array([np.percentile(one, [25, 50, 75]) for one in own]).T
        one.errorbar(
            levels, middle, yerr=[middle - low, high - middle], fmt="s", color=COLOURS[1], ms=5,
            capsize=3, label="median, quartiles",
        )  # fmt: skip
    scale = float(d @ g / (g @ g))
    reach = np.array([0.0, float(g.max())])
    one.plot(reach, scale * reach, color=GREY, lw=1, label="in proportion")
    one.set_xlim(left=0)
    one.set_ylim(bottom=0)
    one.set_xlabel("distance in the task (edges)")
    one.set_ylabel("distance in the embedding")
    one.set_title(title)
    facts = f"rank correlation {measured['spearman']:.2f}\nstress {measured['stress']:.2f}"
    legend_beside(one, title=facts)
    return one


def _of_snapshot(snapshot: Snapshot, *, ax: Axes | None = None) -> Axes:
    tokens = tokens_of(snapshot)
    inside = np.unique(tokens.edges)  # a token outside the group has no place in its metric
    order = f"\nalong the circle of the {tokens.colour_label}" if tokens.cyclic else ""
    return plot_shepard(
        tokens.points[inside],
        tokens.metric[np.ix_(inside, inside)],
        title=f"Distances: {tokens.title}{order.removesuffix(' (rad)')}",
        ax=ax,
    )


FIGURE = Figure(
    "shepard",
    _of_snapshot,
    of="checkpoint",
    about="distances between tokens in the embedding against the task's own",
    takes=("step",),
)
