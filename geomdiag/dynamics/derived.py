"""What is derived from a run's dataset, made anew in a result that has it already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import xarray as xr

__all__ = ["over_runs", "replaced"]


def replaced(
    dataset: xr.Dataset, made: xr.Dataset, variables: Iterable[object], dims: Sequence[str] = ()
) -> xr.Dataset:
    """Return a run's dataset with derived variables in the place of earlier ones.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run; its attributes are kept.
    made : xr.Dataset
        What was derived from it.
    variables : iterable of str
        Names of the earlier ones, which need not be there.
    dims : sequence of str
        Dims that only derived variables have.
    """
    rest = dataset.drop_vars(list(variables), errors="ignore").drop_dims(dims, errors="ignore")
    merged = rest.merge(made, join="exact")
    merged.attrs = dataset.attrs
    return merged


def over_runs(tree: xr.DataTree, change: Callable[[xr.Dataset], xr.Dataset]) -> xr.DataTree:
    """Return a result with the dataset of every run changed."""
    nodes = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        nodes[node.path] = change(dataset) if "step" in dataset.dims else dataset
    return xr.DataTree.from_dict(nodes)
