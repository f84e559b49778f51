"""A checkpoint's tokens as figures draw them: places, colour by the task's phase, its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import GeomdiagError, MissingPartError

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import HarmonicBasis, Task

__all__ = ["Tokens", "edges_of", "tokens_of"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens:
    """Tokens of one checkpoint.

    Attributes
    ----------
    title : str
        Matrix, task and step.
    points : (n, d) float array
        Row of the matrix of each token.
    colour : (n,) float array
        Phase in [0, 2π) where the tokens form an abelian group, else their rank in the first
        attribute, else their distance from token 0. NaN for tokens that have none.
    colour_label : str
        What that is, with its unit.
    cyclic : bool
        Whether the colour is a phase.
    metric : (n, n) float array
        The task's distances, along the circle of that phase where there is one.
    edges : (m, 2) int array
        Edges of the task's graph, as `edges_of` the metric.
    """

    title: str
    points: FloatArray
    colour: FloatArray
    colour_label: str
    cyclic: bool
    metric: FloatArray
    edges: NDArray[np.int64]


def edges_of(metric: FloatArray) -> NDArray[np.int64]:
    """Return the pairs of tokens that no third token lies between.

    Parameters
    ----------
    metric : (n, n) float array
        Distances; infinite or NaN where two tokens are not connected.

    Returns
    -------
    (m, 2) int array
        Rows i < j. For distances in a graph these are its edges, except such as are longer than
        another way round.
    """
    far = np.where(np.isfinite(metric), metric, np.inf)
    np.fill_diagonal(far, np.inf)
    found = []
    for i in range(len(far)):
        others = np.arange(i + 1, len(far))
        around = (far[i][:, None] + far[:, others]).min(axis=0)
        direct = far[i, others]
        edge = others[np.isfinite(direct) & (direct < around * (1 - 1e-9))]
        found.append(np.stack([np.full(len(edge), i), edge], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def tokens_of(snapshot: Snapshot, matrix: str = "embedding") -> Tokens:
    """Return a checkpoint's tokens for the figures that show them.

    Parameters
    ----------
    snapshot : Snapshot
        As `geomdiag.models.snapshot` gives it.
    matrix : str
        Which of the snapshot's matrices with a row a token.

    Returns
    -------
    Tokens
        In an abelian group the phase is that of the strongest character of the matrix; in a
        cyclic one among those that generate it, as only they order all tokens.

    Raises
    ------
    MissingPartError
        If the checkpoint has no such matrix.
    GeomdiagError
        If its rows are not tokens, or not finite.
    """
    if reason := snapshot.missing(matrix):
        known = ", ".join(snapshot.matrices) or "none"
        raise MissingPartError(f"{reason}; matrices that it has: {known}")
    chosen = snapshot.matrices[matrix]
    if chosen.rows != "tokens":
        raise GeomdiagError(f"the rows of {matrix} are {chosen.rows}, expected tokens")
    task = snapshot.task
    points = np.asarray(chosen.values, dtype=np.float64)
    if not np.isfinite(points).all():
        raise GeomdiagError(
            f"the {matrix} of step {snapshot.step} holds numbers that are not finite; draw an "
            "earlier step"
        )
    metric, edges_in = np.asarray(task.metric, dtype=np.float64), np.arange(task.tokens)
    colour = np.full(task.tokens, np.nan)
    cyclic = False
    if block := _strongest(points, task):
        basis = task.basis
        colour[basis.members] = _phase(basis, block)
        label, cyclic = f"phase at {basis.labels[block]} (rad)", True
        edges_in = basis.members  # a token outside the group is on no circle
        ordered = task.metric_for(block)
        metric = metric if ordered is None else ordered
    elif task.orders:
        attribute, ranks = next(iter(task.orders.items()))
        colour, label = ranks.astype(np.float64), f"rank in {attribute}"
    else:
        colour, label = metric[0].copy(), "distance from token 0 (edges)"
        colour[~np.isfinite(colour)] = np.nan
    inner = edges_of(metric[np.ix_(edges_in, edges_in)])
    return Tokens(
        title=f"{matrix.replace('_', ' ')} of {task.name}, step {snapshot.step}",
        points=points,
        colour=colour,
        colour_label=label,
        cyclic=cyclic,
        metric=metric,
        edges=np.asarray(edges_in)[inner],
    )


def _strongest(points: FloatArray, task: Task) -> int:
    """Return the strongest complex character that orders the tokens; 0 if there is none."""
    from geomdiag.metrics.spectrum import block_power, power_fractions

    basis = task.basis
    if basis.period is None and basis.periods is None:
        return 0
    if basis.period is not None:
        power = block_power(points, basis.members, period=basis.period)
    else:
        power = block_power(points, basis.members, block=basis.block, vectors=basis.vectors)
    fractions = np.nan_to_num(np.asarray(power_fractions(power)))
    for block in np.argsort(-fractions, kind="stable") + 1:
        if (basis.block == block).sum() != 2:
            continue  # a real character has two phases only
        if basis.period is None or task.metric_for(int(block)) is not None:
            return int(block)
    return 0


def _phase(basis: HarmonicBasis, block: int) -> FloatArray:
    """Return the angle of a block's character at the members: its cosine comes first."""
    cosine, sine = basis.vectors[:, basis.block == block].T
    return np.asarray(np.arctan2(sine, cosine) % (2 * np.pi))
