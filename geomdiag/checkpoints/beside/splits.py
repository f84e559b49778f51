"""Which inputs a run trained on: found beside its checkpoints, or given by the user."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import SplitError

__all__ = ["GENERATORS", "Split", "parse_split", "split_from_value", "split_inside"]

#: Ways in which studies draw their split.
GENERATORS = ("python", "numpy", "numpy-generator", "torch")

_TRAIN_KEYS = (
    "train",
    "train_indices",
    "train_idx",
    "train_rows",
    "train_pairs",
    "train_mask",
    "train_data",
    "mask",
    "indices",
)
_FORMS = (
    "row numbers in lexicographic order of all inputs, (m, operands) pairs, or one truth value "
    "for each input"
)


#: Entries of lists that are looked at, and how deep they may lie.
_MOST, _DEEPEST = 20_000_000, 8


#: What a file of this suffix should be.
_BINARY = {
    ".npy": "NumPy array file of numbers",
    ".npz": "NumPy archive of arrays of numbers",
    ".pt": "torch.save file of plain values",
    ".pth": "torch.save file of plain values",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """A train/held-out split, in whichever form it was stored.

    Attributes
    ----------
    kind : {"rows", "pairs", "mask", "shuffle"}
        How `value` names the train inputs: ``rows``, numbers of rows in lexicographic order
        of all inputs; ``pairs``, (m, arity) operands; ``mask``, one truth value per input;
        ``shuffle``, a recipe ``{"generator": ..., "seed": ..., "fraction": ...}``.
    value : object
        See `kind`.
    source : str
        Where it comes from, for the result's attributes.
    """

    kind: Literal["rows", "pairs", "mask", "shuffle"]
    value: Any
    source: str

    def mask(self, inputs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of `inputs` are trained on.

        Parameters
        ----------
        inputs : (n, arity) int array
            All inputs of the task, lexicographic.

        Returns
        -------
        (n,) bool array

        Raises
        ------
        SplitError
            If the split does not fit the inputs.
        """
        inputs = np.asarray(inputs)
        if self.kind == "mask":
            given = np.asarray(self.value).ravel().astype(bool)
            if len(given) != len(inputs):
                raise SplitError(
                    f"the split from {self.source} has {len(given)} truth values, but the task has "
                    f"{len(inputs)} inputs; give one for each input, in lexicographic order"
                )
            return given
        if self.kind == "pairs":
            rows = self._rows_of_pairs(inputs)
        elif self.kind == "shuffle":
            rows = _shuffled(len(inputs), self.value, self.source)
        else:
            rows = np.asarray(self.value, dtype=np.int64).ravel()
        if len(rows) and (rows.min() < 0 or rows.max() >= len(inputs)):
            raise SplitError(
                f"the split from {self.source} names row {int(rows.max())} (smallest "
                f"{int(rows.min())}), but the task has {len(inputs)} inputs, rows 0 to "
                f"{len(inputs) - 1}; is it the split of another task or modulus?"
            )
        result = np.zeros(len(inputs), dtype=np.bool_)
        result[rows] = True
        if result.sum() != len(rows):
            raise SplitError(
                f"the split from {self.source} names {len(rows) - int(result.sum())} train inputs "
                "twice; row numbers must be distinct"
            )
        return result

    def _rows_of_pairs(self, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
        pairs = np.asarray(self.value, dtype=np.int64)
        arity = inputs.shape[1]
        if pairs.ndim == 2 and pairs.shape[1] > arity and len(pairs):
            # A column that never changes and is no operand is the "=" or operator token.
            special = (pairs == pairs[0]).all(axis=0) & (pairs[0] > inputs.max())
            pairs = pairs[:, ~special]
        if pairs.ndim != 2 or pairs.shape[1] != arity:
            raise SplitError(
                f"the split from {self.source} holds operands of shape {pairs.shape}, but an input "
                f"of the task has {arity} operands; expected (m, {arity})"
            )
        row_of = {tuple(row): number for number, row in enumerate(inputs.tolist())}
        rows = [row_of.get(tuple(pair), -1) for pair in pairs.tolist()]
        if -1 in rows:
            raise SplitError(
                f"the split from {self.source} names {tuple(pairs[rows.index(-1)].tolist())}, "
                "which is no input of the task; is it the split of another task or modulus?"
            )
        return np.array(rows, dtype=np.int64)

    def __repr__(self) -> str:
        size = self.value if self.kind == "shuffle" else np.shape(self.value)
        return f"<Split {self.kind} {size} from {self.source}>"


def _shuffled(n: int, recipe: Mapping[str, Any], source: str) -> NDArray[np.int64]:
    """Return the train rows that a study's own shuffle gives."""
    generator, seed = recipe["generator"], int(recipe["seed"])
    fraction = float(recipe["fraction"])
    if generator == "python":
        order = list(range(n))
        random.Random(seed).shuffle(order)
        rows = np.array(order, dtype=np.int64)
    elif generator == "numpy":
        rows = np.random.RandomState(seed).permutation(n)
    elif generator == "numpy-generator":
        rows = np.random.default_rng(seed).permutation(n)
    elif generator == "torch":
        import torch

        rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    else:
        raise SplitError(
            f"the split from {source} names the generator {generator!r}; known: "
            f"{', '.join(GENERATORS)}"
        )
    return rows[: int(fraction * n)].astype(np.int64)


def parse_split(text: str | Path) -> Split:
    """Read what the user said with ``--split``.

    Parameters
    ----------
    text : str or Path
        ``python:seed=0,fraction=0.3`` (also ``numpy:``, which is ``RandomState``,
        ``numpy-generator:`` and ``torch:``): all inputs in lexicographic order are shuffled
        and the first ``int(fraction·n)`` are the train part. Or a file (.npz, .npy, .json,
        .pt, .pth, .csv, .txt) with the train part as row numbers, operands or a mask.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If the text is no such description or the file cannot be understood.

    Examples
    --------
    >>> parse_split("python:seed=0,fraction=0.3").value["generator"]
    'python'
    """
    match = re.fullmatch(r"([a-z-]+):((?:\s*\w+\s*=[^,=]*,?)*)", str(text).strip())
    if match and (match[1] in GENERATORS or not Path(text).exists()):
        return _parse_recipe(match[1], match[2], str(text))
    path = Path(text)
    if not path.is_file():
        raise SplitError(
            f"the split {str(text)!r} is neither a file nor a recipe such as "
            f"python:seed=0,fraction=0.3 (generators: {', '.join(GENERATORS)})"
        )
    return read_split_file(path)


def _parse_recipe(generator: str, body: str, text: str) -> Split:
    if generator not in GENERATORS:
        raise SplitError(
            f"unknown generator {generator!r} in the split {text!r}; known: {', '.join(GENERATORS)}"
        )
    given: dict[str, str] = {}
    for item in filter(str.strip, body.split(",")):
        key, _, value = item.partition("=")
        given[key.strip()] = value.strip()
    if set(given) != {"seed", "fraction"}:
        raise SplitError(
            f"the split {text!r} must say exactly seed and fraction, e.g. "
            f"{generator}:seed=0,fraction=0.3"
        )
    try:
        seed, fraction = int(given["seed"]), float(given["fraction"])
    except ValueError as error:
        raise SplitError(
            f"the split {text!r} needs a whole number as seed and a number as fraction: {error}"
        ) from None
    if not 0 <= fraction <= 1:
        raise SplitError(f"the split {text!r} has fraction {fraction}; expected 0 to 1")
    if seed < 0:
        raise SplitError(f"the split {text!r} has the seed {seed}; expected 0 or more")
    return Split(
        kind="shuffle",
        value={"generator": generator, "seed": seed, "fraction": fraction},
        source=text,
    )


def split_from_value(value: Any, source: str) -> Split:
    """Return the split that a stored value means, told by its type and shape.

    Parameters
    ----------
    value : array, torch tensor, list or mapping
        Row numbers, operands, a mask, a recipe, or a mapping that holds one under ``train``.
    source : str
        Where it was found.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If it is none of these.
    """
    if isinstance(value, Mapping):
        if {"generator", "seed", "fraction"} <= set(value):
            recipe = ",".join(f"{key}={value[key]}" for key in ("seed", "fraction"))
            found = _parse_recipe(str(value["generator"]), recipe, source)
            return Split(kind="shuffle", value=found.value, source=source)
        if isinstance(value.get("split"), Mapping):
            return split_from_value(value["split"], source)
        key = next((key for key in _TRAIN_KEYS if key in value), None)
        if key is None:
            raise SplitError(
                f"{source}: found the keys {', '.join(map(str, value)) or '(none)'}, expected one "
                f"of {', '.join(_TRAIN_KEYS)} with {_FORMS}"
            )
        return split_from_value(value[key], source)
    if hasattr(value, "detach"):  # a torch tensor, perhaps from a GPU
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value if isinstance(value, np.ndarray) else _plain(value))
    except ValueError as error:
        raise SplitError(f"{source}: cannot be read as a split ({error}); expected {_FORMS}") from (
            error
        )
    if array.dtype.kind == "f" and array.size and np.all(array == np.round(array)):
        array = array.astype(np.int64)
    if array.ndim not in (1, 2) or array.dtype.kind not in "biu" or not array.size:
        raise SplitError(
            f"{source}: found {array.dtype} values of shape {array.shape}, expected {_FORMS}"
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    truth = array.dtype == bool or (array.size > 4 and set(np.unique(array)) <= {0, 1})
    square = array.ndim == 2 and array.shape[0] == array.shape[1] and array.shape[1] > 3
    if truth and (array.ndim == 1 or square or array.dtype == bool):
        return Split(kind="mask", value=array.astype(bool).ravel(), source=source)
    kind: Literal["rows", "pairs"] = "rows" if array.ndim == 1 else "pairs"
    return Split(kind=kind, value=array.astype(np.int64), source=source)


def _plain(value: Any, depth: int = 0, left: list[int] | None = None) -> Any:
    """Turn lists of tensors and of ((a, b), answer) tuples into lists of numbers."""
    left = left or [_MOST]
    if isinstance(value, list | tuple):  # they may hold one another over and over
        left[0] -= len(value)
        if depth > _DEEPEST or left[0] < 0:
            raise ValueError(f"lists nested more than {_DEEPEST} deep, or of too many entries")
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    if isinstance(value, list | tuple):
        first = value[0] if value else None
        if (
            isinstance(first, list | tuple)
            and len(first) == 2
            and isinstance(first[0], list | tuple)
        ):
            return [_plain(item[0], depth + 1, left) for item in value]
        return [_plain(item, depth + 1, left) for item in value]
    return value


def split_inside(mapping: Mapping[Any, Any], source: str) -> Split | None:
    """Return the split that a checkpoint's or sidecar's mapping carries, or None."""
    for key in ("split", "train_indices", "train_idx", "train_rows", "train_pairs", "train_mask"):
        value = mapping.get(key)
        if value is None or isinstance(value, str | int | float):
            continue
        try:
            return split_from_value(value, f"{source} ({key})")
        except SplitError:
            continue  # "split" may hold anything; the others decide
    return None


def read_split_file(path: AnyPath) -> Split:
    """Read a split from a file; see `parse_split`.

    Raises
    ------
    SplitError
        If the file cannot be read or understood.
    """
    suffix = path.suffix.lower()
    try:
        value: Any
        if suffix in (".npz", ".npy"):
            with path.open("rb") as file:  # NumPy leaves a damaged one open
                value = np.load(file, allow_pickle=False)
                if isinstance(value, np.lib.npyio.NpzFile):
                    value = dict(value)
            if isinstance(value, dict) and len(value) == 1:
                value = next(iter(value.values()))
        elif suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8"))
        elif suffix in (".pt", ".pth"):
            import torch

            value = torch.load(local_copy(path), weights_only=True, map_location="cpu")
        elif suffix in (".csv", ".txt"):
            value = _read_table(path)
        else:
            raise SplitError(
                f"{path}: a split may be .npz, .npy, .json, .pt, .pth, .csv or .txt, not "
                f"{suffix or 'without suffix'}"
            )
    except SplitError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if suffix in _BINARY:  # NumPy and torch would advise to unpickle it
            reason = f"it is damaged, no {_BINARY[suffix]}, or holds Python objects"
        raise SplitError(
            f"{path}: cannot be read as a split ({reason}); expected {_FORMS}"
        ) from error
    return split_from_value(value, path.name)


def _read_table(path: AnyPath) -> Any:
    """Read numbers in columns; a header may name them, and a truth column makes a mask."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise SplitError(f"{path}: the file is empty; expected {_FORMS}")
    if any("," in line for line in lines):
        rows = list(csv.reader(lines, skipinitialspace=True))
    else:
        rows = [line.split() for line in lines]
    header = None
    if not re.fullmatch(r"[-+]?\d+(\.0*)?", rows[0][0].strip()) and not _truth(rows[0][0]):
        header, rows = [name.strip().lower() for name in rows[0]], rows[1:]
    for name in ("train", "train_mask", "mask", "is_train", "split", "part"):
        if header and name in header:
            column = [row[header.index(name)].strip() for row in rows]
            values = [cell.lower() in ("1", "1.0", "true", "train") for cell in column]
            if len(header) == 1:
                return np.array(values, dtype=bool)
            others = [i for i, other in enumerate(header) if other != name]
            train = [row for row, yes in zip(rows, values, strict=True) if yes]
            return np.array([[float(row[i]) for i in others] for row in train])
    if all(len(row) == 1 and _truth(row[0]) for row in rows):
        return np.array([row[0].strip().lower() == "true" for row in rows], dtype=bool)
    return np.array([[float(cell) for cell in row] for row in rows])


def _truth(cell: str) -> bool:
    return cell.strip().lower() in ("true", "false")
