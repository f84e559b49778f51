"""Losses and accuracies that a training loop hands over, kept like those that files record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.checkpoints.beside.curves import NAMES
from geomdiag.checkpoints.series import History

__all__ = ["Losses"]

#: Between measured steps a row is kept where the step has grown by this share: a result keeps
#: no more of them.
GROWTH = 1e-3
SOURCE = "what the training loop handed over"


class Losses:
    """The run's own curves, one row a step."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}
        self._last = -1

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, step: int, values: Mapping[str, Any], *, keep: bool) -> None:
        """Keep numbers of a step; `keep`: however close it is to the last one kept.

        Parameters
        ----------
        step : int
            Updates made so far.
        values : mapping of str to number or one-element tensor
            By the names of a `History`'s values; None is passed over.
        keep : bool
            Whether the step is measured.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if given and step < self._last:  # a training that was taken up earlier passes it anew
            self.rewind(step)
        if not given or not (keep or step >= (1 + GROWTH) * self._last):
            return
        values = {name: _number(name, value) for name, value in given.items()}
        self._rows.setdefault(step, {}).update(values)
        self._last = max(self._last, step)

    def rewind(self, step: int) -> None:
        """Forget what was recorded from a step on."""
        self._rows = {at: row for at, row in self._rows.items() if at < step}
        self._last = max(self._rows, default=-1)

    def history(self) -> History | None:
        """Return the curves, None where nothing was recorded."""
        arrays = self.pack()
        names = [name for name in NAMES if name in arrays]
        if not names:
            return None
        return History(arrays["step"], {name: arrays[name] for name in names}, SOURCE)

    def pack(self) -> dict[str, NDArray[Any]]:
        """Return ``step`` and a column for each name, NaN where a row lacks it."""
        steps = sorted(self._rows)
        names = [name for name in NAMES if any(name in row for row in self._rows.values())]
        columns: dict[str, NDArray[Any]] = {"step": np.array(steps, dtype=np.int64)}
        for name in names:
            columns[name] = np.array([self._rows[at].get(name, math.nan) for at in steps])
        return columns

    def unpack(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add what `pack` gave."""
        for name in NAMES:
            for step, value in zip(
                columns["step"].tolist(), columns.get(name, np.empty(0)).tolist(), strict=False
            ):
                if not math.isnan(value):
                    self._rows.setdefault(step, {})[name] = value
        self._last = max(self._rows, default=-1)

    def take(self, dataset: xr.Dataset) -> None:
        """Add the curves that an earlier result holds."""
        if "history" not in dataset:
            return
        curves = dataset["history"].transpose("quantity", "history_step")
        names = [str(name) for name in curves["quantity"].values]
        self.unpack(
            {
                "step": curves["history_step"].values,
                **dict(zip(names, np.asarray(curves.values, dtype=np.float64), strict=True)),
            }
        )


def _number(name: str, value: Any) -> float:
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: found {value!r}, expected a number or a tensor of one element"
        ) from error
