"""A corpus: many analysed runs as one flat table, small enough to keep beside the code.

Criteria and forecasts are calibrated and judged on it. One row is one checkpoint, one column
(`signal`) one number of a result, such as ``symmetry_violation[commutativity,mean]``.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag._replace import plain_errors, replacing
from geomdiag.dynamics.crossings import rises_for_good
from geomdiag.dynamics.curves import accuracy, ordered
from geomdiag.errors import StoreError
from geomdiag.store import load, save

__all__ = [
    "CAUSAL",
    "collect",
    "digest",
    "join",
    "load_corpus",
    "runs_of",
    "save_corpus",
    "signals_of",
]

_MATRICES = ("embedding", "unembedding")
#: Variables of a result that a corpus keeps; with the labels that it keeps of some dims.
#: All of them are causal: a row depends on no later checkpoint.
CAUSAL: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "accuracy": {},
    "loss": {},
    "logit_scale": {},
    "symmetry_violation": {"statistic": ("mean", "max")},
    "symmetry_js": {"statistic": ("mean", "max")},
    "covered_accuracy": {},
    "dimension": {"matrix": _MATRICES},
    "norm": {"matrix": _MATRICES},
    "concentration": {"matrix": _MATRICES},
    "equivariant_share": {},
    "restricted_loss": {},
    "excluded_loss": {},
    "distance_irrelevance": {},
    "helix": {"matrix": _MATRICES[:1]},
    "distortion": {"matrix": _MATRICES[:1]},
    "predicted_distortion": {},
    "order": {},
    "additivity": {},
    "alignment": {},
}

#: Earliest time that a ZIP archive can hold: the same corpus gives the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def signals_of(dataset: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """Return the numbers of one run's result that a corpus keeps, each over its steps.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run, with the dim ``step``.

    Returns
    -------
    dict of str to (step,) float array
        ``variable`` or ``variable[label,...]`` to values; those that are missing at every step
        are left out.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for name, labels in CAUSAL.items():
        if name not in dataset or dataset[name].dims[:1] != ("step",):
            continue
        variable = dataset[name]
        for dim, wanted in labels.items():
            own = variable[dim].values.astype(str)
            variable = variable.isel({dim: np.isin(own, wanted)})
        values = np.asarray(variable.values, dtype=np.float64)
        axes = [variable[dim].values.astype(str).tolist() for dim in variable.dims[1:]]
        for place in np.ndindex(values.shape[1:]):
            column = values[(slice(None), *place)]
            if np.isnan(column).all():
                continue
            words = ",".join(axis[i] for axis, i in zip(axes, place, strict=True))
            found[f"{name}[{words}]" if words else name] = column
    return found


def runs_of(corpus: xr.Dataset) -> list[slice]:
    """Return the rows of each run of a corpus."""
    ends = np.searchsorted(
        corpus["run_index"].values, np.arange(corpus.sizes["run"]), side="right"
    ).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def collect(
    runs: Iterable[tuple[str, xr.Dataset]], *, recipes: Mapping[str, str] | None = None
) -> xr.Dataset:
    """Return many runs' results as one table.

    Parameters
    ----------
    runs : iterable of (str, xr.Dataset)
        Name and result of each run. What stands before the last ``/`` of a name is the
        ``setting`` that runs of several seeds share.
    recipes : mapping of str to str, optional
        Name of a run to all that is needed to train it again, as JSON.

    Returns
    -------
    xr.Dataset
        ``value`` (signal, row), float32, one row a checkpoint, NaN where a run has no such number;
        ``step``, ``run_index`` (row); and over (run): ``task``, ``setting``, ``architecture``,
        ``recipe``, ``last_step``, ``t_memorised``, ``t_generalised`` (first step from which
        accuracy stays at or above 0.99, NaN if it does not), ``t_generalised_after`` (the last
        step seen before it), from the run's own curves where it has some; ``t_symmetry``,
        ``t_geometry``, ``t_settled`` and ``stage_order`` are those of its stages.

    Raises
    ------
    StoreError
        If two runs have one name, or there is none.
    """
    names: list[str] = []
    facts: dict[str, list[object]] = {key: [] for key in _FACTS}
    steps: list[NDArray[np.int64]] = []
    columns: list[dict[str, NDArray[np.float64]]] = []
    for name, given in runs:
        if name in names:
            raise StoreError(f"two runs are called {name!r}; a corpus needs different names")
        dataset = ordered(given)
        names.append(name)
        steps.append(dataset["step"].values.astype(np.int64))
        columns.append(signals_of(dataset))
        memorised = rises_for_good(accuracy(dataset, "train"))
        generalised = rises_for_good(accuracy(dataset, "heldout"))
        stages = "stage_order" in dataset and "stage_boundary" in dataset
        facts["task"].append(str(dataset.attrs.get("task", "")))
        facts["setting"].append(name.rpartition("/")[0])
        facts["architecture"].append(str(dataset.attrs.get("architecture", "")))
        facts["recipe"].append((recipes or {}).get(name, ""))
        facts["last_step"].append(float(steps[-1][-1]))
        facts["t_memorised"].append(memorised.value)
        facts["t_generalised"].append(generalised.value)
        facts["t_generalised_after"].append(
            math.nan if generalised.or_earlier else generalised.lower
        )
        facts["stage_order"].append(str(dataset["stage_order"].values) if stages else "")
        for boundary in _BOUNDARIES:
            one = dataset["stage_boundary"].sel(boundary=boundary) if stages else math.nan
            facts[boundary].append(float(one))
    if not names:
        raise StoreError("there are no runs to make a corpus of")
    signals = sorted({signal for own in columns for signal in own})
    place = {signal: i for i, signal in enumerate(signals)}
    # whole columns lie together, so that they compress
    values = np.full((len(signals), sum(map(len, steps))), np.nan, dtype=np.float32)
    start = 0
    for at, own in zip(steps, columns, strict=True):
        for signal, column in own.items():
            values[place[signal], start : start + len(at)] = column
        start += len(at)
    order = np.repeat(np.arange(len(names), dtype=np.int32), [len(at) for at in steps])
    return xr.Dataset(
        {
            "value": (("signal", "row"), values),
            "step": ("row", np.concatenate(steps)),
            "run_index": ("row", order),
            **{
                key: ("run", np.array(column, dtype=dtype))
                for (key, dtype), column in zip(_FACTS.items(), facts.values(), strict=True)
            },
        },
        {"signal": ("signal", np.array(signals)), "run": ("run", np.array(names))},
        {"format": "geomdiag-corpus", "format_version": 1},
    )


_BOUNDARIES = ("t_symmetry", "t_geometry", "t_settled")
_FACTS: dict[str, type] = {
    "task": str,
    "setting": str,
    "architecture": str,
    "recipe": str,
    "last_step": np.float64,
    "t_memorised": np.float64,
    "t_generalised": np.float64,
    "t_generalised_after": np.float64,
    "stage_order": str,
    **dict.fromkeys(_BOUNDARIES, np.float64),
}


def digest(corpus: xr.Dataset) -> str:
    """Return a sha256, hexadecimal, of the numbers that thresholds and forecasts are made from."""
    found = hashlib.sha256()
    for name in ("value", "step", "run_index", "t_generalised"):
        found.update(np.ascontiguousarray(corpus[name].values).tobytes())
    return found.hexdigest()


def join(corpora: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return several corpora as one.

    Parameters
    ----------
    corpora : sequence of xr.Dataset
        As `collect` gives them; signals that one of them lacks are NaN in its rows.

    Returns
    -------
    xr.Dataset

    Raises
    ------
    StoreError
        If two runs have one name, or there is no corpus.
    """
    if not corpora:
        raise StoreError("there are no runs to make a corpus of")
    names = np.concatenate([one["run"].values for one in corpora])
    unique, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise StoreError(
            f"two runs are called {str(unique[counts > 1][0])!r}; a corpus needs different names"
        )
    signals = np.unique(np.concatenate([one["signal"].values for one in corpora]))
    before = np.cumsum([0, *(one.sizes["run"] for one in corpora)])
    parts = [
        one.reindex(signal=signals).assign(run_index=one["run_index"] + np.int32(first))
        for one, first in zip(corpora, before[:-1].tolist(), strict=True)
    ]
    rows = xr.concat([one[["value", "step", "run_index"]] for one in parts], "row")
    runs = xr.concat([one[list(_FACTS)] for one in corpora], "run")
    return xr.merge([rows, runs]).assign_attrs(corpora[0].attrs)


def save_corpus(corpus: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a corpus as one file: a result's Zarr hierarchy in a ZIP archive.

    Parameters
    ----------
    corpus : xr.Dataset
        As `collect` gives it.
    path : path
        File; replaced in one step. The same corpus gives the same bytes.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    target = Path(path).resolve()
    with plain_errors(target), tempfile.TemporaryDirectory() as folder:
        root = save(xr.DataTree(corpus), Path(folder) / "corpus.zarr")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for file in sorted(path for path in root.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(file.relative_to(root).as_posix(), _NO_TIME)
                archive.writestr(entry, file.read_bytes())
    return target


def load_corpus(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a corpus into memory.

    Parameters
    ----------
    path : path
        File that `save_corpus` wrote.

    Returns
    -------
    xr.Dataset
        Equal to the one that was saved.

    Raises
    ------
    StoreError
        If it is no corpus.
    """
    target = Path(path).resolve()
    expected = "expected the one file that geomdiag.dynamics.corpus.save_corpus writes"
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "corpus.zarr"
            with zipfile.ZipFile(target) as archive:
                archive.extractall(root)
            corpus = load(root).to_dataset()
    except (OSError, zipfile.BadZipFile, StoreError) as error:
        raise StoreError(f"{target} cannot be read as a corpus: {error}; {expected}") from error
    if corpus.attrs.get("format") != "geomdiag-corpus":
        raise StoreError(f"{target} is no corpus; {expected}")
    return corpus
