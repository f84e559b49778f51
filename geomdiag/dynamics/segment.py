"""Stages of every run of a result, also of one that was stored."""

from __future__ import annotations

import xarray as xr

from geomdiag.dynamics.derived import replaced
from geomdiag.dynamics.plateau import SAMPLES
from geomdiag.dynamics.stages import stages
from geomdiag.errors import GeomdiagError

__all__ = ["segment"]


def segment(tree: xr.DataTree, *, samples: int = SAMPLES, seed: int = 0) -> xr.DataTree:
    """Return a result with the stages of its runs computed anew.

    `geomdiag.analyze` does this by itself. Call it for results of an earlier version, with other
    seeds, or after variables were changed.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it or `geomdiag.load` reads it: a node a run.
    samples : int
        Replicates of the bootstraps.
    seed : int
        Of the bootstraps; the same seed gives the same result.

    Returns
    -------
    xr.DataTree
        A new tree; the variables are those of `geomdiag.stages`.

    Raises
    ------
    GeomdiagError
        If the tree has no runs, or a node is none.
    """
    if not tree.children:
        raise GeomdiagError(
            "the result has no runs. Give the tree that geomdiag.analyze returns; the stages of "
            "one run's Dataset come from geomdiag.stages."
        )
    nodes = {"/": tree.to_dataset(inherit=False)}
    for name, node in tree.children.items():
        dataset = node.to_dataset()
        old = [one for one in dataset.variables if str(one).startswith("stage")]
        found = stages(dataset, samples=samples, seed=seed)
        made = found.reindex(step=dataset["step"])
        nodes[f"/{name}"] = replaced(dataset, made, old, ("boundary", "fact"))
    return xr.DataTree.from_dict(nodes)
