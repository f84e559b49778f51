"""What a W&B run logged, read from its ``run-<id>.wandb`` file; offline runs keep it only there.

The file is a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind
seven bytes of W&B's own; each record is a protocol buffer. Field numbers:
https://github.com/wandb/wandb/blob/main/wandb/proto/wandb_internal.proto (Record, RunRecord,
ConfigRecord, HistoryRecord).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from typing import Any

from geomdiag.checkpoints.beside.curves import STEP_UNITS, standard_values, step_columns
from geomdiag.checkpoints.formats.contract import Curve
from geomdiag.checkpoints.formats.protobuf import Scanner
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["read_log"]

_HEADER = b":W&B\xe1\xbe"
_BLOCK = 32 << 10
#: Kinds of a piece of a record.
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
#: Fields of Record, RunRecord, ConfigRecord and HistoryRecord, and of their items.
_HISTORY, _CONFIG, _RUN, _RUN_CONFIG, _ITEM = 2, 5, 17, 4, 1
_KEY, _NESTED, _JSON = 1, 2, 16
#: Bytes of a log that are read, and of one record.
_LIMIT, _LONGEST = 256 << 20, 1 << 20


def read_log(path: AnyPath) -> tuple[dict[str, Any], list[Curve]]:
    """Return the settings and the losses and accuracies of a run.

    A log that breaks off (of a run that goes on, or was killed) gives what is there.

    Parameters
    ----------
    path : Path or RemotePath
        ``wandb/run-<date>_<time>-<id>/run-<id>.wandb``.

    Returns
    -------
    settings : dict
    curves : list of Curve
        Counted in what the run logged as ``step``, ``global_step`` or ``epoch``, and in what
        W&B counts itself: calls of its ``log``, or the step that was passed to it (unit
        ``"call"``).
    """
    settings: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    try:
        for record in _records(path):
            scan = Scanner(path, io.BytesIO(record), len(record))
            for number, start, end in scan.fields(0, len(record)):
                if number == _HISTORY:
                    rows.append(_items(scan, start, end))
                elif number == _CONFIG:
                    settings |= _items(scan, start, end)
                elif number == _RUN:
                    for inner, a, b in scan.fields(start, end):
                        if inner == _RUN_CONFIG:
                            settings |= _items(scan, a, b)
    except (OSError, ValueError, RecursionError, CheckpointError):
        pass  # a courtesy: what was read until then counts
    settings.pop("_wandb", None)
    return settings, _curves(rows, path.name)


def _records(path: AnyPath) -> Iterator[bytes]:
    """Yield the records of a log, put together from their pieces."""
    with path.open("rb") as file:
        if not file.read(7).startswith(_HEADER):
            return
        at, record = 7, b""
        while at < _LIMIT:
            left = _BLOCK - at % _BLOCK
            if left < 7:  # too little for another piece: zeros
                file.read(left)
                at += left
                continue
            head = file.read(7)
            length, kind = int.from_bytes(head[4:6], "little"), head[6] if len(head) == 7 else 0
            piece = file.read(length)
            at += 7 + length
            if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(piece) < length:
                return
            record = piece if kind in (_FULL, _FIRST) else record + piece
            if len(record) > _LONGEST:
                record = b""  # a table or a picture; its later pieces make no record
            elif kind in (_FULL, _LAST):
                yield record


def _items(scan: Scanner, start: int, end: int) -> dict[str, Any]:
    """Return keys and values of a history's or configuration's items."""
    found: dict[str, Any] = {}
    for number, a, b in scan.fields(start, end):
        if number != _ITEM or not b:
            continue
        key, text = "", ""
        for inner, c, d in scan.fields(a, b):
            if inner in (_KEY, _NESTED):
                key = "/".join(filter(None, (key, scan.text(c, d))))
            elif inner == _JSON and d - c < 1 << 16:
                text = scan.text(c, d)
        if key and text:
            found[key] = json.loads(text)  # NaN and Infinity are read as such
    return found


def _curves(rows: list[dict[str, Any]], source: str) -> list[Curve]:
    """Return one curve a quantity: each was logged at moments of its own."""
    for row in rows:
        if "trainer/global_step" in row:  # Lightning's
            row.setdefault("global_step", row["trainer/global_step"])
    names = dict.fromkeys(name for row in rows for name in row)
    counts = {**step_columns(names), "call": "_step"}
    curves: list[Curve] = []
    for name in names:
        if name in STEP_UNITS or not standard_values({name: 0}):
            continue
        held = [row for row in rows if _is_number(row.get(name))]
        units = {u: c for u, c in counts.items() if all(_is_number(row.get(c)) for row in held)}
        if held and units:
            steps = {unit: [int(row[column]) for row in held] for unit, column in units.items()}
            curves.append(Curve({name: [float(row[name]) for row in held]}, steps, source))
    return curves


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value) and abs(value) < 2**62
