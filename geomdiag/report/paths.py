"""Where the tokens are at each step: the plane of the embedding that holds most of its variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import GeomdiagError

if TYPE_CHECKING:
    from geomdiag.checkpoints import Series
    from geomdiag.tasks.contract import Task

__all__ = ["aligned", "token_paths"]

FloatArray = NDArray[np.float64]


def aligned(planes: Sequence[FloatArray | None]) -> list[FloatArray | None]:
    """Turn each step's points so that they differ least from the next step's.

    Parameters
    ----------
    planes : sequence of (n, k) float array or None
        Centred points of the same n tokens at each step; None where there are none.

    Returns
    -------
    list of (n, k) float array or None
        The last points as they are; earlier ones rotated or mirrored (orthogonal Procrustes,
        Schönemann 1966, doi:10.1007/BF02289451) to the next that there are. Distances within a
        step do not change.
    """
    found: list[FloatArray | None] = [None] * len(planes)
    later: FloatArray | None = None
    for row in reversed(range(len(planes))):
        points = planes[row]
        if points is None:
            continue
        if later is not None:
            left, _, right = np.linalg.svd(points.T @ later)
            points = points @ (left @ right)
        found[row] = later = points
    return found


def token_paths(
    series: Series,
    steps: Sequence[int],
    task: str | Task,
    *,
    model: str | None = None,
    digests: Sequence[str] | None = None,
    most: int | None = None,
) -> dict[str, Any]:
    """Return where the tokens are at some steps, for the page to show.

    Parameters
    ----------
    series : Series
        One run's checkpoints.
    steps : sequence of int
        Steps of the result.
    task : str or Task
        What was to be learnt.
    model : str, optional
        As `geomdiag.models.snapshot` takes it.
    digests : sequence of str, optional
        ``digest`` of the result at each step; a checkpoint with another one is not shown.
    most : int, optional
        Steps that are looked at, spread evenly, the last one among them. Left out: all.

    Returns
    -------
    dict
        ``points``: a list a step, None where it was not looked at or has none, else x and y
        of each token in turn as whole numbers from -999 to 999, in units of the largest of that
        step, turned as `aligned` does. ``shares``: share of the variance that lies in that plane.
        ``scale``: that largest number. ``colour``, ``colour_label``, ``cyclic``, ``edges``: as in
        `geomdiag.plots.Tokens`, at the last of the steps. Or ``reason``: why there is nothing.
    """
    from geomdiag.models import infer_task, snapshot
    from geomdiag.plots.embedding import principal_components
    from geomdiag.plots.tokens import tokens_of

    rows = {int(step): row for row, step in enumerate(series.steps)}
    places = np.linspace(len(steps) - 1, 0, min(len(steps), most or len(steps))).round()
    looked_at = {int(place) for place in places}
    planes: list[FloatArray | None] = []
    shares: list[float | None] = []
    last: Any = None
    reason = f"the checkpoints of {series.name} have none of the result's steps"
    for place, step in enumerate(steps):
        plane = share = None
        try:
            if place in looked_at and step in rows:
                checkpoint = series[rows[step]]
                if checkpoint.error:
                    raise GeomdiagError(f"step {step}: {checkpoint.error}")
                if digests and digests[place] not in ("", checkpoint.digest):
                    raise GeomdiagError(
                        f"step {step}: this checkpoint is not the one that was analysed (its "
                        "digest is another); give the folder that the result was made from"
                    )
                known = infer_task(task, checkpoint, series.config)
                seen = tokens_of(snapshot(checkpoint, known, model=model, config=series.config))
                scores, parts = principal_components(seen.points)
                plane, share, last = scores[:, :2], float(parts[:2].sum()), seen
        except GeomdiagError as error:  # one unreadable checkpoint does not take the others away
            reason = str(error)
        planes.append(plane)
        shares.append(share)
    if last is None:
        return {"reason": reason}
    sizes = [float(np.abs(one).max()) if one is not None else 0.0 for one in planes]
    points = [
        None if one is None else np.round(999 * one / (size or 1.0)).astype(int).ravel().tolist()
        for one, size in zip(aligned(_same_tokens(planes)), sizes, strict=True)
    ]
    return {
        "points": points,
        "scale": [float(f"{size:.4g}") for size in sizes],
        "shares": [None if share is None else round(share, 4) for share in shares],
        "colour": [None if np.isnan(value) else round(float(value), 4) for value in last.colour],
        "colour_label": last.colour_label,
        "cyclic": last.cyclic,
        "edges": last.edges.ravel().tolist(),
    }


def _same_tokens(planes: Sequence[FloatArray | None]) -> list[FloatArray | None]:
    """Leave out steps with another number of tokens than the last, which cannot be compared."""
    last = next(one for one in reversed(planes) if one is not None)
    return [one if one is not None and one.shape == last.shape else None for one in planes]


def match(runs: Mapping[str, Series] | None, name: str, node: str) -> Series | None:
    """Return the checkpoints of a run of the result, by its name or its node's."""
    if runs is None:
        return None
    return next((series for key, series in runs.items() if key in (name, node)), None)
