"""What a diagnostic is: parts of a snapshot in, variables out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["Analyzer", "dataset", "describe"]


def _always(_task: Task) -> str:
    return ""


@dataclass(frozen=True)
class Analyzer:
    """A named diagnostic.

    Attributes
    ----------
    name : str
        Registry name, e.g. ``"symmetry"``.
    compute : callable
        ``scope="step"``: ``compute(snapshot, task)`` returns a Dataset without a ``step``
        dim. ``scope="run"``: ``compute(snapshots, task)`` gets the run's readable snapshots
        in order of step and returns a Dataset with the dim ``step``.
    needs : tuple of str
        Parts of the snapshot it cannot do without: ``"logits"``, ``"matrices"``,
        ``"embedding"``, ``"split"``, ``"differentiable"``. When one is missing the
        analyzer is skipped and the part's reason recorded.
    applies : callable
        ``applies(task)`` returns an empty string, or why the diagnostic has no meaning for
        that task.
    variables : tuple of str
        Names it can produce.
    scope : {"step", "run"}
        See `compute`.
    default : bool
        Whether it runs when nobody chooses.
    static : tuple of str
        Those of `variables` that do not depend on the step; one value serves the run.
    version : int
        Raised when the numbers change, so that stored results are recomputed.
    """

    name: str
    compute: Callable[..., xr.Dataset]
    needs: tuple[str, ...] = ()
    applies: Callable[[Task], str] = _always
    variables: tuple[str, ...] = ()
    scope: Literal["step", "run"] = "step"
    default: bool = True
    static: tuple[str, ...] = ()
    version: int = 1

    def missing(self, snapshot: Snapshot, task: Task) -> str:
        """Return why the diagnostic cannot be computed, or an empty string."""
        reason = self.applies(task)
        if reason:
            return reason
        for part in self.needs:
            if reason := snapshot.missing(part):
                return reason
        return ""


def describe(
    dims: Sequence[str],
    values: Any,
    long_name: str,
    units: str,
    definition: str,
    reference: str = "",
    higher_is_better: bool | None = None,
) -> tuple[Sequence[str], Any, Mapping[str, Any]]:
    """Return an xarray variable tuple with the attributes every result carries.

    Parameters
    ----------
    dims : sequence of str
        Names of the dims of `values`.
    values : array
        Numbers, or texts.
    long_name : str
        What it is, in a few words.
    units : str
        ``"1"`` for plain numbers.
    definition : str
        How it is computed, so that it could be computed again.
    reference : str
        Source, e.g. ``"arXiv:2603.01968"``; several with semicolons.
    higher_is_better : bool, optional
        Which direction is better, where that has a meaning.

    Returns
    -------
    tuple
        Dims, values and attributes, for `xarray.Dataset`.
    """
    attrs: dict[str, Any] = {"long_name": long_name, "units": units, "definition": definition}
    if reference:
        attrs["reference"] = reference
    if higher_is_better is not None:
        attrs["higher_is_better"] = int(higher_is_better)
    return dims, values, attrs


def dataset(variables: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> xr.Dataset:
    """Return a Dataset of described variables, all but its values made once for all steps.

    Parameters
    ----------
    variables : mapping of str to tuple
        From `describe`.
    labels : mapping of str to sequence of str
        Labels along each dim.
    """
    arrays = {name: np.asarray(values) for name, (_, values, _) in variables.items()}
    frame = _frame(
        tuple(
            (name, tuple(dims), arrays[name].shape, tuple(attrs.items()))
            for name, (dims, _, attrs) in variables.items()
        ),
        tuple((dim, tuple(values)) for dim, values in labels.items()),
    )
    return frame.copy(data=arrays)


@lru_cache(maxsize=64)
def _frame(
    variables: tuple[tuple[str, tuple[str, ...], tuple[int, ...], tuple[Any, ...]], ...],
    labels: tuple[tuple[str, tuple[str, ...]], ...],
) -> xr.Dataset:
    return xr.Dataset(
        {name: (dims, np.zeros(shape), dict(attrs)) for name, dims, shape, attrs in variables},
        {dim: list(values) for dim, values in labels},
    )
