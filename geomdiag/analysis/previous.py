"""What an earlier result at the same place means for a new one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geomdiag.errors import GeomdiagError
from geomdiag.models.snapshot import EMBEDDING_ONLY

if TYPE_CHECKING:
    from geomdiag.analysis.result import Job

__all__ = ["analysed", "first_error", "no_longer", "related", "with_runs_of"]


def analysed(tree: xr.DataTree) -> bool:
    """Return whether a result holds any checkpoint that could be analysed."""
    return any(
        (np.ravel(node["status"]) != "failed").any()
        for node in tree.children.values()
        if "status" in node
    )


def first_error(tree: xr.DataTree) -> str:
    """Return why a checkpoint of a result could not be analysed."""
    errors = (str(one) for node in tree.children.values() for one in np.ravel(node["error"]))
    return next((one for one in errors if one), "for no reason that is known")


def related(previous: xr.DataTree, jobs: Sequence[Job]) -> bool:
    """Return whether a result holds any of these checkpoints.

    Digests of a few rows tell nothing of a file of which other rows were taken; there the
    run's name counts.
    """
    of_rows = {
        str(node.attrs.get("run", ""))
        for node in previous.children.values()
        if node.attrs.get("architecture") == EMBEDDING_ONLY
    }
    if any(
        job.series.name in of_rows and job.plan.selection is not None and job.plan.selection.only
        for job in jobs
    ):
        return True
    digests = _digests(previous.children.values(), of_failures=False)
    if not digests:
        return True  # nothing in it is worth keeping
    for job in jobs:
        for checkpoint in job.series:
            try:
                if job.plan.digest(replace(checkpoint)) in digests:
                    return True
            except (OSError, GeomdiagError):
                continue  # reported when it is measured
    return False


def with_runs_of(previous: xr.DataTree, tree: xr.DataTree) -> xr.DataTree:
    """Return a result with those runs of an earlier one that it has not.

    A run whose checkpoints it has under another name is none of these.
    """
    runs = {str(node.attrs.get("run", name)) for name, node in tree.children.items()}
    digests = _digests(tree.children.values())
    nodes = {"/": tree.to_dataset(), **{n: one.to_dataset() for n, one in tree.children.items()}}
    for name, node in previous.children.items():
        if str(node.attrs.get("run", name)) in runs or _digests([node]) <= digests:
            continue
        while name in nodes:
            name += "_"
        nodes[name] = node.to_dataset()
    return xr.DataTree.from_dict(nodes)


def _digests(nodes: Iterable[xr.DataTree], *, of_failures: bool = True) -> set[str]:
    """Return the digests of the checkpoints of some runs."""
    return {
        str(digest)
        for node in nodes
        if {"digest", "status"} <= set(node.data_vars)
        for digest, status in zip(np.ravel(node["digest"]), np.ravel(node["status"]), strict=True)
        if of_failures or status != "failed"
    } - {""}


def no_longer(
    previous: xr.DataTree, tree: xr.DataTree, besides: Collection[str] = frozenset()
) -> str:
    """Return, in words, what an earlier result held and this one does not.

    Variables named in `besides` are passed over.
    """
    runs = {str(node.attrs.get("run", name)): node for name, node in tree.children.items()}
    dropped: list[str] = []
    variables: set[str] = set()
    for name, node in previous.children.items():
        run = str(node.attrs.get("run", name))
        if run not in runs:
            dropped.append(f"the run {run!r}")
        elif run_task := str(node.attrs.get("task", "")):
            if run_task == runs[run].attrs.get("task"):
                variables |= {str(one) for one in set(node.data_vars) - set(runs[run].data_vars)}
            else:
                dropped.append(f"the task {run_task} of {run!r}")
            if (chosen := _tokens_said(node)) and chosen != _tokens_said(runs[run]):
                dropped.append(f"the tokens {chosen} of {run!r}")
            if taken := _taken_otherwise(node, runs[run]):
                dropped.append(f"{taken} of {run!r}")
    return ", ".join([*dropped, *sorted(variables - set(besides))])


def _tokens_said(node: xr.DataTree) -> str:
    return str(json.loads(str(node.attrs.get("tokens", "{}"))).get("said", ""))


def _taken_otherwise(node: xr.DataTree, after: xr.DataTree) -> str:
    """Return which matrices an earlier result took from another tensor, or axis of it."""
    old, new = _parts(node), _parts(after)
    if not old and json.loads(str(node.attrs.get("roles", "{}"))):
        return ", ".join(f"the network's own {part}" for part in new)
    return ", ".join(
        f"{part} = {tensor} along axis {axis}"
        for part, (tensor, axis) in old.items()
        if new.get(part) != [tensor, axis]
    )


def _parts(node: xr.DataTree) -> dict[str, list[Any]]:
    """Return tensor and axis of the matrices that were taken by name."""
    settings = json.loads(str(node.attrs.get("configuration", "{}")))
    parts: dict[str, list[Any]] = settings.get("selection", {}).get("parts", {})
    return parts
