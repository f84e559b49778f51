"""A forecast of when: the chance that it happens in each stretch of log-time to come.

A discrete-time survival model (Tutz & Schmid 2016, doi:10.1007/978-3-319-28158-2) on the growth
of the step: after a forecast at step t the stretches end at ``t · exp(edge)``. The chance of
the event in a stretch that is reached is logistic in the features, whose weights change linearly
with the stretch. Runs that are still going count for the stretches they have seen. Survival
beyond the last edge stays where it is: nothing is said about times that far away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["EDGES", "Hazard", "fit_hazard", "stretches"]

FloatArray = NDArray[np.float64]

#: Ends of the stretches, as logarithms of the factor by which the step grows; the last is 24.5.
EDGES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.2)
#: Standardised features are held within this: an unseen task may lie anywhere.
LIMIT = 3.0


@dataclass(frozen=True, eq=False)
class Hazard:
    """A fitted model.

    Attributes
    ----------
    names : tuple of str
        Features, in the order of the columns.
    edges : (k,) float array
        Ends of the stretches.
    centre, scale : (f,) float array
        Of each feature; a missing one counts as its centre.
    intercepts : (k,) float array
        Of each stretch.
    weights, drift : (f,) float array
        Of each standardised feature, and how it changes from the first to the last stretch.
    """

    names: tuple[str, ...]
    edges: FloatArray
    centre: FloatArray
    scale: FloatArray
    intercepts: FloatArray
    weights: FloatArray
    drift: FloatArray

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
        z = _standard(columns, self.centre, self.scale)
        place = _place(len(self.edges))
        score = self.intercepts + (z @ self.weights)[:, None] + (z @ self.drift)[:, None] * place
        stays = 1.0 / (1.0 + np.exp(np.clip(score, -50, 50)))
        return np.concatenate([np.ones((len(z), 1)), np.cumprod(stays, axis=1)], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as plain values, for JSON."""
        return {
            "names": list(self.names),
            **{
                key: [float(f"{x:.9g}") for x in getattr(self, key)]
                for key in ("edges", "centre", "scale", "intercepts", "weights", "drift")
            },
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Hazard:
        """Return the model that `to_dict` was called on."""
        arrays = {key: np.asarray(value, float) for key, value in values.items() if key != "names"}
        return cls(names=tuple(values["names"]), **arrays)


def _place(count: int) -> FloatArray:
    return np.linspace(-0.5, 0.5, count)


def _standard(columns: FloatArray, centre: FloatArray, scale: FloatArray) -> FloatArray:
    z = (columns - centre) / scale
    return np.clip(np.where(np.isnan(z), 0.0, z), -LIMIT, LIMIT)


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
    ridge: float = 10.0,
    edges: ArrayLike = EDGES,
) -> Hazard:
    """Fit by penalised maximum likelihood.

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
    ridge : float
        Penalty on the squared weights of standardised features.
    edges : (k,) float array
        Ends of the stretches.

    Returns
    -------
    Hazard
    """
    ends = np.asarray(edges, dtype=np.float64)
    centre, scale = np.zeros(len(names)), np.ones(len(names))
    some = ~np.isnan(columns).all(axis=0)
    if some.any():
        low, centre[some], high = np.nanpercentile(columns[:, some], [10, 50, 90], axis=0)
        # the middle four fifths of a normal distribution span 2.56 standard deviations
        scale[some] = np.where(high - low > 1e-9, (high - low) / 2.56, 1.0)
    z = _standard(columns, centre, scale)
    watched, event = stretches(growth, seen, ends)
    place = _place(len(ends))
    weight = weight / weight.mean()
    k, f = len(ends), z.shape[1]
    penalty = np.full(k + 2 * f, ridge)
    penalty[:k] = 1e-3  # an intercept without any event must stay finite
    theta = np.zeros(k + 2 * f)
    at_risk = (weight[:, None] * watched).sum(axis=0)
    share = ((weight[:, None] * event).sum(axis=0) + 0.01) / (at_risk + 0.02)
    theta[:k] = np.log(share / (1 - share))  # as without features

    def objective(theta: FloatArray) -> float:
        score = theta[:k] + (z @ theta[k : k + f])[:, None]
        score += (z @ theta[k + f :])[:, None] * place
        # log(1 + exp(score)) without overflow
        terms = np.where(watched, np.logaddexp(0.0, score) - np.where(event, score, 0.0), 0.0)
        return float((weight[:, None] * terms).sum() + (penalty * theta**2).sum() / 2)

    loss = objective(theta)
    for _ in range(60):
        gradient = -penalty * theta
        curvature = np.diag(penalty)
        linear, drift = z @ theta[k : k + f], z @ theta[k + f :]
        for j in range(k):
            rows = watched[:, j]
            chance = 1.0 / (1.0 + np.exp(-np.clip(theta[j] + linear + drift * place[j], -50, 50)))
            error = np.where(rows, weight * (event[:, j] - chance), 0.0)
            bend = np.where(rows, weight * chance * (1 - chance), 0.0)
            pull, cross = z.T @ error, z.T @ bend
            square = (z * bend[:, None]).T @ z
            a, b = slice(k, k + f), slice(k + f, k + 2 * f)
            gradient[j] += error.sum()
            gradient[a] += pull
            gradient[b] += place[j] * pull
            curvature[j, j] += bend.sum()
            curvature[j, a] += cross
            curvature[j, b] += place[j] * cross
            curvature[a, j] += cross
            curvature[b, j] += place[j] * cross
            curvature[a, a] += square
            curvature[a, b] += place[j] * square
            curvature[b, a] += place[j] * square
            curvature[b, b] += place[j] ** 2 * square
        step = np.linalg.solve(curvature, gradient)
        # far from the optimum Newton's step may go too far
        while (lower := objective(theta + step)) > loss + 1e-9 * abs(loss):
            step /= 2
        theta, loss = theta + step, lower
        if np.abs(step).max() < 1e-6:
            break
    return Hazard(
        names=names,
        edges=ends,
        centre=centre,
        scale=scale,
        intercepts=theta[:k],
        weights=theta[k : k + f],
        drift=theta[k + f :],
    )
