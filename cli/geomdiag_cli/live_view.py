"""What `geomdiag watch` shows: a line a run on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag_cli.console import clean, say, stdout
from geomdiag_cli.tables import count, number

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from geomdiag.live import Look

__all__ = ["View"]

#: Columns of numbers, and those that are left out first where the terminal is narrow.
NUMBERS = ("step", "train", "held-out", "accuracy", "violation", "dim.", "onset", "never")
SPARE = ("never", "dim.", "train")
#: A run's name keeps so many characters.
NAME = 12
GAP = 2


class View:
    """A table that is kept current on a terminal, a line for each change elsewhere.

    Parameters
    ----------
    path : Path
        What is followed.
    quiet : bool
        Whether to show errors alone.
    """

    def __init__(self, path: Path, *, quiet: bool) -> None:
        from rich.live import Live

        self._path, self._quiet = path, quiet
        self._console = stdout()
        terminal = self._console.is_terminal and not quiet
        self._live = Live(console=self._console, auto_refresh=False) if terminal else None
        self._waiting = ""
        self._warned: tuple[str, ...] = ()

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, look: Look) -> None:
        """Show what a look gave."""
        from geomdiag.summary import summarise

        for where, text in look.errors.items():
            self._line(f"{where}: {text}", error=True)
        summaries = summarise(look.tree) if look.tree is not None else []
        if self._live is not None:
            runs = [_cells(one, look.tree) for one in summaries]
            shown = _table(runs, self._state(look), *self._console.size)
            self._live.update(shown, refresh=True)
            return
        waiting = self._state(look) if look.problem or not summaries else ""
        if waiting and waiting != self._waiting:
            self._line(waiting)
        self._waiting = waiting
        for one in summaries:
            if steps := look.fresh.get(one["run"]):
                self._line(f"{one['run']}: {_words(one, steps)}")

    def warn(self, *problems: str) -> None:
        """Say what could not be written, once, and when it could again."""
        found = tuple(one for one in problems if one)
        for one in found:
            if one not in self._warned:
                self._line(f"not safe yet: {one} It is tried again.", error=True)
        if self._warned and not found:
            self._line("written again: all is safe", error=True)
        self._warned = found

    def _line(self, text: str, *, error: bool = False) -> None:
        if error and self._live is None:
            say(text)
        elif self._live is not None:
            self._live.console.print(clean(text), soft_wrap=True)
        elif not self._quiet:
            self._console.print(clean(text), soft_wrap=True)
            self._console.file.flush()

    def _state(self, look: Look) -> str:
        if look.problem and self._path.exists() and not look.making:
            return f"waiting for checkpoints: {look.problem}"
        if look.tree is None:
            return f"waiting for checkpoints in {self._path}"
        text = f"following {self._path}; Ctrl-C ends it"
        if look.making:
            text += f"; being written: {', '.join(one.name for one in look.making[:3])}"
        return text


def _words(one: Mapping[str, Any], steps: Sequence[int]) -> str:
    """Return a run's state in a line."""
    last = one["steps"][1]
    told = [f"{one['unit']} {last}", one["stage"].replace("_", " ")]
    told += [f"{name} {text}" for name, text in _numbers(one).items() if text]
    if one["forecast"]:
        told.append(f"forecast: {one['forecast']}")
    more = f" ({count(len(steps), 'new checkpoint')} of {one['checkpoints']})"
    return "; ".join([told[0] + more, *told[1:]])


def _numbers(one: Mapping[str, Any]) -> dict[str, str]:
    accuracy, size = one["accuracy"], one["effective_dimension"]
    names = {"train": "train", "heldout": "held-out", "all": "all inputs"}
    known = [part for part in ("train", "heldout") if part in accuracy] or list(accuracy)
    violations = [
        f"{name} {number(course['last'])}"
        for name, course in one["symmetry_violation"].items()
        if not course["architectural"]
    ]
    return {
        "accuracy": ", ".join(f"{names[part]} {accuracy[part]:.3f}" for part in known),
        "violation": ", ".join(violations),
        "dimension": f"{size['last']:.3g}" if size is not None else "",
    }


def _cells(one: Mapping[str, Any], tree: xr.DataTree | None) -> dict[str, str]:
    """Return what the table says of a run, by the column's heading."""
    accuracy, size = one["accuracy"], one["effective_dimension"]
    violations = [
        course["last"]
        for course in one["symmetry_violation"].values()
        if not course["architectural"]
    ]
    cells = {
        "run": clean(one["run"]),
        "step": str(one["steps"][1]) if one["steps"] else "",
        "stage": one["stage"].replace("_", " "),
        "violation": number(max(violations)) if violations else "",
        "dim.": number(size["last"]) if size is not None else "",
    }
    parts = {"train": "train", "heldout": "held-out"}
    for part in [part for part in parts if part in accuracy] or list(accuracy):
        cells[parts.get(part, "accuracy")] = f"{accuracy[part]:.3f}"
    return cells | (_onset(tree[one["node"]].to_dataset()) if tree is not None else {})


def _onset(run: xr.Dataset) -> dict[str, str]:
    """Return when a run will generalise, and the chance that it does not."""
    from geomdiag.dynamics.forecast import newest

    if "forecast_verdict" not in run or not run["step"].size:
        return {}
    modes = [told for told in newest(run).values() if isinstance(told, dict)]
    if not modes or (middle := modes[-1]["onset"].get("0.5")) is None:
        return {}
    low, high = (modes[-1]["onset"].get(quantile) for quantile in ("0.05", "0.95"))
    known = low is not None and high is not None
    never = modes[-1]["never"]
    return {
        "onset": f"{middle:.0f}",
        "interval": f"{middle:.0f} ({low:.0f}…{high:.0f})" if known else "",
        "never": f"{never:.0%}" if never is not None else "",
    }


def _table(runs: Sequence[dict[str, str]], state: str, width: int, height: int) -> RenderableType:
    """Return a table of one line a run that fits a terminal, and below it what is done."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    below = Text(clean(state), style="italic", overflow="fold")
    if not runs:
        return below
    order = ("run", "step", "stage", "accuracy", "train", "held-out", *NUMBERS[4:])
    headings = [one for one in order if any(run.get(one) for run in runs)]

    def taken(heading: str, by: str = "") -> int:
        return GAP + max(len(heading), *(len(run.get(by or heading, "")) for run in runs))

    def room() -> int:
        """Return what is left for the runs' names."""
        return width - sum(taken(one) for one in headings if one != "run") - GAP

    for one in SPARE:
        if room() < NAME and one in headings:
            headings.remove(one)
    if "onset" in headings and (
        room() + taken("onset") - taken("onset", "interval") >= taken("run") - GAP
    ):
        runs = [{**run, "onset": run.get("interval") or run.get("onset", "")} for run in runs]
    longest = max(NAME, room())
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for one in headings:
        side = "right" if one in NUMBERS else "left"
        table.add_column(one, no_wrap=True, overflow="ellipsis", justify=side)  # type: ignore[arg-type]
    shown = len(runs) if len(runs) <= height - 4 else max(height - 5, 1)
    for run in runs[:shown]:
        cells = {one: run.get(one) or "–" for one in headings}
        name = cells["run"]
        # names of runs differ at their ends
        cells["run"] = name if len(name) <= longest else "…" + name[-(longest - 1) :]
        table.add_row(*cells.values())
    if shown < len(runs):
        table.add_row(f"and {len(runs) - shown} more")
    return Group(table, below)
