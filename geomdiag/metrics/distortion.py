"""Distances between tokens in a matrix against those of the task (METHOD, section 6).

Everything here works on NumPy arrays; torch tensors are converted (ranks and shortest paths
have no counterpart there).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, to_numpy
from geomdiag.metrics._checks import finite_points, pairwise_distances

__all__ = [
    "TargetMetric",
    "compare_distances",
    "distortion",
    "distortions",
    "intrinsic_distances",
    "target_metric",
]

FloatArray = NDArray[np.float64]

#: Distances closer than this share of the largest are ties: rounding must not order them.
TIE = 1e-10


@dataclass(frozen=True, eq=False)
class TargetMetric:
    """A task's metric with all that does not depend on the embedding.

    Attributes
    ----------
    distances : (n, n) float array
        Distances between tokens; infinite between parts that are not connected.
    neighbours : (n, n) bool array
        For each token (row) as many nearest ones as its degree, those that tie for the last
        place included: where all edges are of one length, the edges of the task's graph.
    degree : (n,) int array
        Number of edges at each token.
    pairs : tuple of two int arrays
        Row and column of each pair at finite distance, each pair once.
    values : (pairs,) float array
        Distance of each such pair.
    ranks : (pairs,) float array
        Their centred ranks, ties averaged, scaled to unit norm.
    """

    distances: FloatArray
    neighbours: NDArray[np.bool_]
    degree: NDArray[np.int64]
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
    values: FloatArray
    ranks: FloatArray


def target_metric(metric: Array, degree: Array | None = None) -> TargetMetric:
    """Prepare a task's metric, once for all embeddings that are held against it.

    Parameters
    ----------
    metric : (n, n) array
        Distances between tokens: symmetric, zero on the diagonal, positive elsewhere.
        Infinite where there is no path; such pairs are left out of every measure.
    degree : (n,) int array, optional
        Number of edges at each token, where edges have different lengths. Default: number of
        tokens at the smallest distance that occurs.

    Raises
    ------
    ValueError
        If it is no such matrix, or a degree is not between 0 and the number of tokens at finite
        distance.
    """
    distances = np.asarray(to_numpy(metric), dtype=np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"the metric has shape {distances.shape}; expected (tokens, tokens)")
    other = ~np.eye(len(distances), dtype=bool)
    if np.isnan(distances).any() or np.any(np.diagonal(distances) != 0):
        raise ValueError("the metric holds NaN, or a distance from a token to itself that is not 0")
    if not np.array_equal(distances, distances.T) or np.any(distances[other] <= 0):
        raise ValueError(
            "the metric is not symmetric, or puts different tokens at distance 0 or below; "
            "expected distances between the tokens"
        )
    rows, columns = np.nonzero(np.triu(np.isfinite(distances), 1))
    values = distances[rows, columns]
    reached = np.isfinite(distances) & other
    if degree is None:
        edge = values.min() if len(values) else math.nan
        neighbours = reached & (distances <= edge * (1 + 1e-9))
        edges = neighbours.sum(axis=1)
    else:
        edges = np.asarray(to_numpy(degree), dtype=np.int64)
        if edges.shape != (len(distances),) or np.any(edges < 0) or np.any(edges > reached.sum(1)):
            raise ValueError(
                f"the degrees have shape {edges.shape}; expected one for each of the "
                f"{len(distances)} tokens, between 0 and the number of tokens at finite distance"
            )
        nearest = np.sort(np.where(other, distances, -1.0), axis=1)  # the token itself comes first
        edge = nearest[np.arange(len(edges)), edges]
        neighbours = reached & (distances <= edge[:, None] * (1 + 1e-9)) & (edges > 0)[:, None]
    return TargetMetric(distances, neighbours, edges, (rows, columns), values, _unit_ranks(values))


def distortion(
    points: Array,
    metric: Array | TargetMetric,
    *,
    kind: Literal["euclidean", "cosine", "intrinsic"] = "euclidean",
) -> dict[str, float]:
    """Return how the distances between rows differ from those of the task.

    Parameters
    ----------
    points : (n, columns) array
        Rows are tokens.
    metric : (n, n) array or TargetMetric
        The task's distances; a `TargetMetric` saves work when used again.
    kind : {"euclidean", "cosine", "intrinsic"}
        Distance between rows. ``cosine`` is 1 - cosine of the rows as they stand (not
        centred). ``intrinsic``: see `intrinsic_distances`.

    Returns
    -------
    dict of str to float
        As `compare_distances`. All NaN if a row is zero and `kind` is ``cosine``.

    Raises
    ------
    ValueError
        If the points are not a finite matrix, their number is not that of the metric, or
        `kind` is unknown.
    """
    target = metric if isinstance(metric, TargetMetric) else target_metric(metric)
    points = _matching(points, target)
    if kind == "cosine":
        size = np.linalg.norm(points, axis=1, keepdims=True)
        if not size.all():
            return dict.fromkeys(_MEASURES, math.nan)
        # Half the squared chord of unit rows: exact where 1 - cosine would cancel.
        return compare_distances(pairwise_distances(points / size) ** 2 / 2, target)
    if kind not in ("euclidean", "intrinsic"):
        raise ValueError(f"kind is {kind!r}; expected 'euclidean', 'cosine' or 'intrinsic'")
    distances = pairwise_distances(points)
    if kind == "intrinsic":
        distances, _ = intrinsic_distances(distances, target)
    return compare_distances(distances, target)


def distortions(
    points: Array,
    metric: Array | TargetMetric,
    *,
    shared: dict[bytes, tuple[FloatArray, FloatArray, int]] | None = None,
) -> dict[str, float]:
    """Return the Euclidean measures and, under names with ``_intrinsic``, the intrinsic ones.

    Parameters
    ----------
    points : (n, columns) array
        Rows are tokens.
    metric : (n, n) array or TargetMetric
        The task's distances.
    shared : dict, optional
        Empty at first; what calls for the same points and other metrics share, as shortest
        paths depend on the number of neighbours alone.

    Returns
    -------
    dict of str to float
        As `distortion`, twice. Also ``components_intrinsic``, the number of parts that the
        nearest-neighbour graph fell into before they were joined.

    Raises
    ------
    ValueError
        As `distortion`.
    """
    target = metric if isinstance(metric, TargetMetric) else target_metric(metric)
    key = target.degree.tobytes()
    found = None if shared is None else shared.get(key)
    if found is None:
        distances = pairwise_distances(_matching(points, target))
        found = (distances, *intrinsic_distances(distances, target))
        if shared is not None:
            shared[key] = found
    distances, paths, components = found
    result = compare_distances(distances, target)
    for name, value in compare_distances(paths, target).items():
        result[f"{name}_intrinsic"] = value
    result["components_intrinsic"] = float(components)
    return result


_MEASURES = ("spearman", "stress", "worst_case", "mean", "neighbour_recall")


def compare_distances(distances: Array, metric: Array | TargetMetric) -> dict[str, float]:
    """Return how one matrix of distances differs from the task's.

    Over all pairs with finite task distance g and given distance d > 0:

    - ``spearman``: rank correlation of d and g (ties averaged). 1 is perfect.
    - ``stress``: Kruskal's stress-1, ``sqrt(Σ(d - b g)² / Σd²)`` at the scale b that makes
      it least. 0 is perfect.
    - ``worst_case``: ``max(d/g) · max(g/d)``. 1 is perfect; infinite if two tokens coincide.
    - ``mean``: average of ``|s d - g| / g`` at the scale s that makes it least. 0 is
      perfect, 1 as bad as all tokens in one place.
    - ``neighbour_recall``: share of each token's nearest by d, as many as it has edges (by
      default tokens at the smallest g), that are among as many nearest by g, averaged over tokens
      that have any; tokens that tie for the last places by d share them equally, those that
      tie by g all count. 1 is perfect.

    Parameters
    ----------
    distances : (n, n) array
        Distances, symmetric; for instance what a model predicts (averaged over both
        directions). May be infinite: then stress, worst case and mean are infinite.
    metric : (n, n) array or TargetMetric
        The task's distances.

    Returns
    -------
    dict of str to float
        NaN where a measure has no meaning: no finite pairs, all tokens in one place, or
        (spearman) all distances equal. None depends on the unit of either distance.

    Raises
    ------
    ValueError
        If the shapes differ or `distances` holds NaN or negative entries.

    References
    ----------
    Stress: Kruskal 1964, doi 10.1007/BF02289565. Worst-case and average distortion: Sala
    et al. 2018, arXiv 1804.03329 (there without the best scale).
    """
    target = metric if isinstance(metric, TargetMetric) else target_metric(metric)
    found = np.asarray(to_numpy(distances), dtype=np.float64)
    if found.shape != target.distances.shape:
        raise ValueError(
            f"distances of shape {found.shape} against a metric of shape "
            f"{target.distances.shape}; expected the same tokens in both"
        )
    if np.isnan(found).any() or np.any(found < 0):
        raise ValueError("the distances hold NaN or negative entries; expected distances")
    d, g = found[target.pairs], target.values
    if not len(d) or d.max() == 0:
        return dict.fromkeys(_MEASURES, math.nan)
    result = {"spearman": float(np.clip(_unit_ranks(d) @ target.ranks, -1.0, 1.0))}
    if math.isinf(d.max()):
        result |= dict.fromkeys(("stress", "worst_case", "mean"), math.inf)
    else:
        d = d / d.max()
        ratio = d / g
        error = d - (d @ g) / (g @ g) * g
        result["stress"] = math.sqrt((error @ error) / (d @ d))
        low = float(ratio.min())
        result["worst_case"] = float(ratio.max()) / low if low > 0 else math.inf
        result["mean"] = float(np.mean(np.abs(_best_scale(ratio) * ratio - 1)))
    result["neighbour_recall"] = _recall(found, target)
    return result


def intrinsic_distances(
    distances: FloatArray, metric: Array | TargetMetric
) -> tuple[FloatArray, int]:
    """Return shortest paths over the graph of nearest neighbours.

    Every token is joined to as many nearest ones as it has neighbours in the task (all that
    tie for the last place included), in both directions. Where the graph falls apart, its
    parts are joined by the shortest edges that connect them all (a minimum spanning tree
    of the parts), so that every path is finite; how many parts there were is returned.

    Parameters
    ----------
    distances : (n, n) float array
        Distances between the rows of the embedding.
    metric : (n, n) array or TargetMetric
        The task's distances, for the number of neighbours.

    Returns
    -------
    paths : (n, n) float array
        Path lengths, in the unit of `distances`.
    components : int
        Number of parts before they were joined.

    References
    ----------
    Tenenbaum, de Silva & Langford 2000, doi 10.1126/science.290.5500.2319.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, shortest_path

    target = metric if isinstance(metric, TargetMetric) else target_metric(metric)
    nearer, tied, _ = _nearest(distances, target.degree)
    joined = nearer | tied
    joined |= joined.T
    # Sparse matrices keep edges of length 0 (tokens that coincide); dense ones would not.
    rows, columns = np.nonzero(joined)
    graph = csr_array((distances[rows, columns], (rows, columns)), shape=distances.shape)
    found, part = connected_components(graph, directed=False)
    count = int(found)
    if count > 1:
        start, end = _bridges(distances, np.asarray(part, dtype=np.int64), count)
        rows, columns = np.concatenate([rows, start, end]), np.concatenate([columns, end, start])
        graph = csr_array((distances[rows, columns], (rows, columns)), shape=distances.shape)
    return np.asarray(shortest_path(graph, method="D", directed=True), dtype=np.float64), count


def _matching(points: Array, target: TargetMetric) -> FloatArray:
    rows = finite_points(points, "points")
    if len(rows) != len(target.degree):
        raise ValueError(
            f"{len(rows)} points against a metric of {len(target.degree)} tokens; expected one "
            "row a token. Cut both to the same tokens"
        )
    return rows


def _unit_ranks(values: FloatArray) -> FloatArray:
    """Return centred average ranks of unit norm; NaN where all are tied."""
    if not len(values):
        return values
    order = np.argsort(values)
    ordered = values[order]
    finite = ordered[np.isfinite(ordered)]
    slack = TIE * (finite[-1] if len(finite) else 0.0)
    with np.errstate(invalid="ignore"):  # inf - inf: not a step
        step = np.diff(ordered) > slack
    group = np.concatenate([[0], np.cumsum(step)])
    size = np.bincount(group)
    middle = np.cumsum(size) - (size + 1) / 2
    ranks = np.empty(len(values))
    ranks[order] = (middle - (len(values) - 1) / 2)[group]
    norm = float(np.linalg.norm(ranks))
    return ranks / norm if norm > 0 else np.full(len(values), np.nan)


def _best_scale(ratio: FloatArray) -> float:
    """Return the s with the least ``Σ|s r - 1|``: the median of 1/r with weights r."""
    order = np.argsort(ratio)[::-1]
    total = np.cumsum(ratio[order])
    return float(1 / ratio[order[np.searchsorted(total, total[-1] / 2)]])


def _nearest(
    distances: FloatArray, degree: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], FloatArray]:
    """Return who is surely among each token's nearest, who ties, and the places left."""
    n = len(distances)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    edge = np.sort(others, axis=1)[np.arange(n), np.clip(degree - 1, 0, n - 1)]
    finite = distances[np.isfinite(distances)]
    slack = TIE * float(finite.max())
    nearer = others < (edge - slack)[:, None]
    tied = ~nearer & (others <= (edge + slack)[:, None])
    # The diagonal is no candidate even where the others are infinitely far.
    np.fill_diagonal(tied, False)
    nearer[degree == 0] = tied[degree == 0] = False
    return nearer, tied, degree - nearer.sum(axis=1)


def _recall(distances: FloatArray, target: TargetMetric) -> float:
    has = target.degree > 0
    if not has.any():
        return math.nan
    nearer, tied, places = _nearest(distances, target.degree)
    sure = (nearer & target.neighbours).sum(axis=1)
    maybe = (tied & target.neighbours).sum(axis=1)
    share = places / np.maximum(tied.sum(axis=1), 1)
    return float(np.mean((sure + share * maybe)[has] / target.degree[has]))


def _bridges(
    distances: FloatArray, part: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the edges of a minimum spanning tree of the parts (Prim's algorithm)."""
    reached = part == part[0]
    nearest = np.where(reached[:, None], distances, np.inf).min(axis=0)
    source = np.where(reached[:, None], distances, np.inf).argmin(axis=0)
    rows, columns = [], []
    for _ in range(count - 1):
        new = int(np.where(reached, np.inf, nearest).argmin())
        rows.append(int(source[new]))
        columns.append(new)
        entered = np.flatnonzero(part == part[new])
        reached[entered] = True
        closest = distances[entered].argmin(axis=0)
        step = distances[entered[closest], np.arange(len(part))]
        closer = step < nearest
        nearest[closer], source[closer] = step[closer], entered[closest[closer]]
    return np.asarray(rows), np.asarray(columns)
