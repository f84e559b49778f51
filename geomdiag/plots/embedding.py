"""The embedding in pairs of principal components, with the task's graph drawn into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomdiag.errors import GeomdiagError
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import CYCLIC, GREY, PALE, SEQUENTIAL, WIDTH, axes_for, pyplot, styled
from geomdiag.plots.tokens import tokens_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geomdiag.models.snapshot import Snapshot

__all__ = ["FIGURE", "plot_embedding", "principal_components"]

FloatArray = NDArray[np.float64]

#: Components that are drawn at most, and the share of the variance below which none is.
MOST, LEAST_SHARE = 8, 0.01
#: Tokens up to which they bear their numbers.
NUMBERED = 40


def principal_components(points: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the tokens in principal components, and each component's share of the variance.

    Parameters
    ----------
    points : (n, d) float array
        Rows are tokens.

    Returns
    -------
    scores : (n, k) float array
        Columns by falling variance, k = max(2, min(n, d)), the sign of each such that its largest
        entry is positive.
    shares : (k,) float array
        Add up to 1; all 0 where the tokens are in one place.

    Raises
    ------
    GeomdiagError
        If the points are no finite matrix.
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise GeomdiagError(
            f"points: found shape {values.shape}, expected a finite matrix with a row a token"
        )
    left, sizes, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    scores = left * sizes
    largest = np.abs(scores).argmax(axis=0)
    scores = scores * np.where(scores[largest, np.arange(scores.shape[1])] < 0, -1.0, 1.0)
    total = float((sizes**2).sum())
    shares = sizes**2 / total if total else np.zeros_like(sizes)
    missing = max(0, 2 - scores.shape[1])
    return np.pad(scores, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


@styled
def plot_embedding(
    points: ArrayLike,
    *,
    colour: ArrayLike | None = None,
    colour_label: str = "",
    cyclic: bool = False,
    edges: ArrayLike | None = None,
    title: str = "Tokens in principal components",
    components: int | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw tokens in pairs of principal components: 1 and 2, 3 and 4, ... up to 8.

    Parameters
    ----------
    points : (n, d) float array
        Rows are tokens.
    colour : (n,) float array, optional
        Colour of each token, such as its phase; tokens with NaN are grey.
    colour_label : str
        What the colour is, with its unit.
    cyclic : bool
        Whether the colour is an angle in radians; 0 and 2π then look alike.
    edges : (m, 2) int array, optional
        Pairs of tokens to join.
    title : str
        Title of the first panel.
    components : int, optional
        How many to draw, 2 to 8. Left out: those with more than 1 % of the variance.
    ax : Axes or sequence of Axes, optional
        One for each pair.

    Returns
    -------
    list of Axes
        A panel a pair.

    Raises
    ------
    GeomdiagError
        If the arrays do not fit, or `ax` holds another number of Axes than there are pairs.

    References
    ----------
    arXiv 2603.01968, its figures 1 to 4.
    """
    pyplot()  # or the error that says what to install
    from matplotlib.ticker import MaxNLocator

    scores, shares = principal_components(points)
    count = len(scores)
    hue = None if colour is None else np.asarray(colour, dtype=np.float64)
    if hue is not None and hue.shape != (count,):
        raise GeomdiagError(f"colour: found shape {hue.shape}, expected ({count},), one a token")
    pairs_joined = np.asarray([] if edges is None else edges, dtype=np.int64).reshape(-1, 2)
    if pairs_joined.size and not (pairs_joined.min() >= 0 and pairs_joined.max() < count):
        raise GeomdiagError(f"edges: found tokens beyond 0 to {count - 1}")
    if components is None:
        components = int((shares > LEAST_SHARE).sum())
    wanted = min(max(components, 2), MOST, scores.shape[1])
    firsts = [first for first in range(0, wanted, 2) if first + 1 < scores.shape[1]]
    columns = min(2, len(firsts))
    rows = -(-len(firsts) // columns)
    names = [f"components {first + 1} and {first + 2}" for first in firsts]
    width = WIDTH if columns == 2 else 0.75 * WIDTH
    size = (width, 0.4 + (0.47 if columns == 2 else 0.8) * width * rows)
    drawn = axes_for(ax, names, size, columns=columns)
    known = np.ones(count, dtype=bool) if hue is None else np.isfinite(hue)
    mapped: Any = None
    for one, first in zip(drawn, firsts, strict=True):
        x, y = scores[:, first], scores[:, first + 1]
        one.plot(x[pairs_joined].T, y[pairs_joined].T, color=PALE, lw=0.8, zorder=1)
        one.scatter(x[~known], y[~known], s=26, color="white", edgecolors=GREY, zorder=2)
        mapped = one.scatter(
            x[known],
            y[known],
            s=26,
            c=None if hue is None else hue[known],
            color="#0072B2" if hue is None else None,
            cmap=None if hue is None else (CYCLIC if cyclic else SEQUENTIAL),
            vmin=0 if cyclic and hue is not None else None,
            vmax=2 * np.pi if cyclic and hue is not None else None,
            edgecolors="black",
            linewidths=0.5,
            zorder=3,
        )
        if count <= NUMBERED:
            for token in _apart(x, y):
                one.annotate(
                    str(token), (x[token], y[token]), xytext=(3, 3), textcoords="offset points",
                    fontsize=7, color="#333333", zorder=4,
                )  # fmt: skip
        one.set_xlabel(f"PC {first + 1} ({100 * shares[first]:.0f} % of variance)")
        one.set_ylabel(f"PC {first + 2} ({100 * shares[first + 1]:.0f} %)")
        one.set_aspect("equal", adjustable="datalim")
        one.margins(0.1)
    drawn[0].set_title(title)
    if hue is not None and known.any():
        bar = drawn[0].figure.colorbar(
            mapped, ax=drawn, label=colour_label, shrink=0.6 if rows > 1 else 0.9, aspect=30
        )
        if cyclic:
            bar.set_ticks([0, np.pi, 2 * np.pi], labels=["0", "π", "2π"])
        elif np.array_equal(hue[known], np.round(hue[known])):
            bar.locator = MaxNLocator(integer=True)
            bar.update_ticks()
    return drawn


def _apart(x: FloatArray, y: FloatArray) -> list[int]:
    """Return tokens, the first ones first, far enough apart for their numbers to be read."""
    span = max(float(np.ptp(x)), float(np.ptp(y)))
    wide, high = 0.07 * span, 0.045 * span
    kept: list[int] = []
    for token in range(len(x)):
        if all(abs(x[token] - x[k]) > wide or abs(y[token] - y[k]) > high for k in kept):
            kept.append(token)
    return kept


def _of_snapshot(snapshot: Snapshot, *, ax: Axes | Sequence[Axes] | None = None) -> list[Axes]:
    tokens = tokens_of(snapshot)
    return plot_embedding(
        tokens.points,
        colour=tokens.colour,
        colour_label=tokens.colour_label,
        cyclic=tokens.cyclic,
        edges=tokens.edges,
        title=f"Tokens: {tokens.title}",
        ax=ax,
    )


FIGURE = Figure(
    "embedding",
    _of_snapshot,
    of="checkpoint",
    about="tokens in pairs of principal components, up to 8, with the task's graph",
    takes=("step",),
)
