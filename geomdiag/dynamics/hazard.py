"""A forecast of when: the chance that it happens in each stretch of log-time to come.

A discrete-time survival model (Tutz & Schmid 2016, doi:10.1007/978-3-319-28158-2) on the growth
of the step: after a forecast at step t the stretches end at ``t · exp(edge)``. The chance of
the event in a stretch that is reached comes from boosted trees (Friedman 2001,
doi:10.1214/aos/1013203451) over the features and the stretch. Runs that are still going count
for the stretches they have seen. Survival beyond the last edge stays where it is: nothing is
said about times that far away.

scikit-learn fits the trees; what is kept are plain numbers, which this file alone evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomdiag.errors import GeomdiagError

__all__ = ["EDGES", "MARKS", "Hazard", "Tree", "fit_hazard", "stretches"]

FloatArray = NDArray[np.float64]

#: Ends of the stretches, as logarithms of the factor by which the step grows; the last is 24.5.
EDGES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.2)

#: The present step, and these ends: what a survival forecast has a column for.
MARKS = np.array([0.0, *EDGES])

#: Few leaves and much shrinkage: tasks that were never seen are to be forecast.
SETTINGS: dict[str, Any] = {
    "max_iter": 80,
    "learning_rate": 0.08,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 60,
    "l2_regularization": 20.0,
    "max_bins": 63,
    "early_stopping": False,
    "random_state": 0,
}


@dataclass(frozen=True, eq=False)
class Tree:
    """A decision tree; node 0 is its root.

    Attributes
    ----------
    feature : (n,) int array
        Column that a node asks for; −1 at a leaf.
    threshold : (n,) float array
        Values up to it go left.
    left, right : (n,) int array
        Where to go.
    missing_left : (n,) bool array
        Whether a missing value goes left.
    value : (n,) float array
        Log-odds that a leaf adds.
    """

    feature: NDArray[np.int64]
    threshold: FloatArray
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: FloatArray

    def scores(self, columns: FloatArray, last: FloatArray) -> FloatArray:
        """Return what the tree adds for every row and every value of the last column.

        Parameters
        ----------
        columns : (n, f) float array
            All columns but the last.
        last : (k,) float array
            Values of the last column.

        Returns
        -------
        (n, k) float array
        """
        rows: list[NDArray[np.bool_]] = []
        values: list[FloatArray] = []
        # a leaf is reached by a set of rows and a set of values of the last column
        open_nodes = [(0, np.ones(len(columns), dtype=bool), np.ones(len(last), dtype=bool))]
        while open_nodes:
            node, some, ends = open_nodes.pop()
            feature, threshold = self.feature[node], self.threshold[node]
            if feature < 0:
                rows.append(some)
                values.append(self.value[node] * ends)
            elif feature == columns.shape[1]:
                left = last <= threshold
                open_nodes += [
                    (self.left[node], some, ends & left),
                    (self.right[node], some, ends & ~left),
                ]
            else:
                asked = columns[:, feature]
                left = np.where(np.isnan(asked), self.missing_left[node], asked <= threshold)
                open_nodes += [
                    (self.left[node], some & left, ends),
                    (self.right[node], some & ~left, ends),
                ]
        return np.stack(rows, axis=1).astype(np.float64) @ np.stack(values)


@dataclass(frozen=True, eq=False)
class Hazard:
    """A fitted model.

    Attributes
    ----------
    names : tuple of str
        Features, in the order of the columns.
    edges : (k,) float array
        Ends of the stretches.
    base : float
        Log-odds before any tree.
    trees : tuple of Tree
        Over the features and, as the last column, the end of the stretch.
    """

    names: tuple[str, ...]
    edges: FloatArray
    base: float
    trees: tuple[Tree, ...]

    def survival(self, columns: FloatArray) -> FloatArray:
        """Return the chance that nothing has happened by each edge.

        Parameters
        ----------
        columns : (n, f) float array
            Features; NaN where missing.

        Returns
        -------
        (n, k + 1) float array
            Decreasing from 1, which stands for the present step.
        """
        score = np.full((len(columns), len(self.edges)), self.base)
        for tree in self.trees:
            score += tree.scores(columns, self.edges)
        stays = 1.0 / (1.0 + np.exp(np.clip(score, -50, 50)))
        return np.concatenate([np.ones((len(columns), 1)), np.cumprod(stays, axis=1)], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as plain values, for JSON."""
        return {
            "names": list(self.names),
            "edges": self.edges.tolist(),
            "base": self.base,
            "trees": [
                {
                    "feature": tree.feature.tolist(),
                    "threshold": [float(f"{x:.9g}") for x in tree.threshold],
                    "left": tree.left.tolist(),
                    "right": tree.right.tolist(),
                    "missing_left": tree.missing_left.astype(int).tolist(),
                    "value": [float(f"{x:.6g}") for x in tree.value],
                }
                for tree in self.trees
            ],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Hazard:
        """Return the model that `to_dict` was called on."""
        trees = tuple(
            Tree(
                feature=np.asarray(one["feature"], dtype=np.int64),
                threshold=np.asarray(one["threshold"], dtype=np.float64),
                left=np.asarray(one["left"], dtype=np.int64),
                right=np.asarray(one["right"], dtype=np.int64),
                missing_left=np.asarray(one["missing_left"], dtype=bool),
                value=np.asarray(one["value"], dtype=np.float64),
            )
            for one in values["trees"]
        )
        return cls(
            names=tuple(values["names"]),
            edges=np.asarray(values["edges"], dtype=np.float64),
            base=float(values["base"]),
            trees=trees,
        )


def stretches(
    growth: ArrayLike, seen: ArrayLike, edges: ArrayLike = EDGES
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which stretches each case was watched in, and in which the event came.

    Parameters
    ----------
    growth : (n,) float array
        Logarithm of the onset's step over the present one; NaN where there was none.
    seen : (n,) float array
        The same for the last step that was watched.
    edges : (k,) float array
        Ends of the stretches.

    Returns
    -------
    (n, k) bool array, (n, k) bool array
        A stretch counts as watched without event when it was seen to its end.
    """
    ends = np.asarray(edges, dtype=np.float64)
    begins = np.concatenate([[0.0], ends[:-1]])
    at = np.asarray(growth, dtype=np.float64)[:, None]
    last = np.asarray(seen, dtype=np.float64)[:, None]
    happened = ~np.isnan(at)
    event = happened & (at > begins) & (at <= ends)
    event[:, 0] |= (happened & (at <= begins[0]))[:, 0]
    watched = np.where(happened, at > begins, last >= ends) | event
    return watched, event


def fit_hazard(
    names: tuple[str, ...],
    columns: FloatArray,
    growth: FloatArray,
    seen: FloatArray,
    weight: FloatArray,
    *,
    edges: ArrayLike = EDGES,
) -> Hazard:
    """Fit trees, each to what those before it leave.

    Parameters
    ----------
    names : tuple of str
        Features.
    columns : (n, f) float array
        Their values; NaN where missing.
    growth, seen : (n,) float array
        See `stretches`.
    weight : (n,) float array
        Of each case; scaled to a mean of 1.
    edges : (k,) float array
        Ends of the stretches.

    Returns
    -------
    Hazard

    Raises
    ------
    GeomdiagError
        If the event came in no stretch, or in every one.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    ends = np.asarray(edges, dtype=np.float64)
    watched, event = stretches(growth, seen, ends)
    case, stretch = np.nonzero(watched)
    happened = event[case, stretch]
    if happened.all() or not happened.any():
        raise GeomdiagError(
            f"found {int(happened.sum())} onsets in {len(happened)} stretches of "
            f"{len(growth)} moments; a forecaster needs runs that generalise late, and time "
            "before it"
        )
    # the library cannot bin a column without values; a constant one is never asked for
    blank = np.isnan(columns).all(axis=0)
    rows = np.column_stack([np.where(blank, 0.0, columns)[case], ends[stretch]])
    model = HistGradientBoostingClassifier(**SETTINGS)
    model.fit(rows, happened, sample_weight=(weight / weight.mean())[case])
    # there is no public way to take the trees out; a test holds them to the model's own chances
    trees = tuple(_tree(predictors[0].nodes) for predictors in model._predictors)
    return Hazard(
        names=names, edges=ends, base=float(np.ravel(model._baseline_prediction)[0]), trees=trees
    )


def _tree(nodes: NDArray[Any]) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"].astype(np.float64)),
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        value=nodes["value"].astype(np.float64),
    )
