"""`geomdiag watch`: a folder of checkpoints analysed while it grows."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomdiag.errors import GeomdiagError
from geomdiag_cli.analyze import default_out
from geomdiag_cli.asked import NOTHING, AllowPickle, Asked, Out, Task, asking
from geomdiag_cli.console import SOME_FAILED, UNUSABLE, Debug, Quiet, clean, say, stdout
from geomdiag_cli.tables import count, number

if TYPE_CHECKING:
    from rich.table import Table

    from geomdiag.live import Look


@asking
def command(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the checkpoints come.")],
    task: Task = None,
    out: Out = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Page that is kept current."),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", min=0.05, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle", metavar="SECONDS", min=0, help="End when nothing came for so long."
        ),
    ] = None,
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            metavar="SECONDS",
            min=0,
            help="An unreadable file counts as broken when it has not changed for so long.",
        ),
    ] = 10.0,
    asked: Asked = NOTHING,
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Follow a folder that a training fills, and keep result, view and page current.

    New checkpoints are analysed as `geomdiag analyze` does it; a file that is being written is
    waited for. Ctrl-C ends it, with exit code 0: what is finished is kept. With --once and
    --until-idle the exit code is that of analyze.
    """
    if report is not None:
        from geomdiag.plots.style import pyplot

        pyplot().switch_backend("agg")  # or the error that says what to install, before any work
        if not report.absolute().parent.is_dir():
            raise GeomdiagError(
                f"--report {report}: its folder does not exist. Make it, or choose another one."
            )
    from geomdiag.live.follow import Follower

    target = out if out is not None else default_out([path], ".zarr")
    follower = Follower(
        path,
        target,
        task,
        settle=settle,
        allow_pickle=allow_pickle,
        ignore=[report] if report is not None else [],
        format="netcdf" if target.suffix == ".nc" else "zarr",
        **asked.arguments(),
    )
    view = _View(path, quiet=quiet)
    page = None if report is None else _Page(report)
    look = None

    def see(*, complete: bool = False) -> Look:
        look = follower.look(complete=complete)
        view.show(look)
        if page is not None:
            page.show(look)
        view.warn(look.unsaved, page.problem if page is not None else "")
        return look

    try:
        with _ended_by_signal(), follower, view:
            active = time.monotonic()
            while True:
                look = see()
                if look.fresh or look.changed:
                    active = time.monotonic()
                if once or (until_idle is not None and time.monotonic() - active >= until_idle):
                    if look.behind:
                        look = see(complete=True)
                    break
                time.sleep(interval)
    except KeyboardInterrupt:
        say(f"Ended. {_where(target, look)}")
        return
    if look.tree is None or look.problem:
        say(f"Error: {look.problem or 'no checkpoints came'}")
        raise typer.Exit(UNUSABLE)
    if look.making:
        names = ", ".join(one.name for one in look.making[:5])
        say(f"left out, as it is being written: {names}")
    say(_where(target, look))
    if page is not None and page.problem:
        say(f"Error: {page.problem}")
        raise typer.Exit(UNUSABLE)
    if _failed(look):
        raise typer.Exit(SOME_FAILED)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let SIGTERM end the loop as Ctrl-C does, also where the shell had Ctrl-C ignored."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for one in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not the main thread: then nothing is to be set
            before[one] = signal.signal(one, end)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Page:
    """The page of a result, written anew when there is a new one.

    Parameters
    ----------
    path : Path
        Of the page.
    """

    def __init__(self, path: Path) -> None:
        from geomdiag.live.retry import Retry

        self._path, self._retry = path, Retry()
        self._shown: Any = None

    @property
    def problem(self) -> str:
        """Why it could not be written; that is tried again."""
        return self._retry.problem

    def show(self, look: Look) -> None:
        """Write what a look gave.

        Raises
        ------
        StoreError
            If it cannot be written, and waiting would not change that.
        """
        from geomdiag.report import report

        if look.tree is None or look.tree is self._shown or not self._retry.due():
            return
        with self._retry.attempt():
            report(look.tree, self._path)
            self._shown = look.tree


def _failed(look: Look) -> bool:
    from geomdiag.summary import summarise

    return look.tree is not None and any(
        one["failed"] or one["partial"] for one in summarise(look.tree)
    )


def _where(target: Path, look: Look | None) -> str:
    if look is None or look.tree is None:
        return "nothing was analysed yet"
    return f"result: {clean(target)}"


class _View:
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

    def __enter__(self) -> _View:
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
            self._live.update(_table(summaries, self._state(look)), refresh=True)
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


def _table(summaries: Sequence[Mapping[str, Any]], state: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, caption=clean(state))
    table.caption_justify = "left"
    for heading in ("run", "step", "stage", "accuracy", "violation", "dim.", "forecast"):
        right = heading in ("step", "dim.")
        table.add_column(heading, overflow="fold", justify="right" if right else "left")
    for one in summaries:
        numbers = _numbers(one)
        table.add_row(
            clean(one["run"]),
            str(one["steps"][1]) if one["steps"] else "–",
            one["stage"].replace("_", " "),
            numbers["accuracy"] or "–",
            clean(numbers["violation"]) or "–",
            numbers["dimension"] or "–",
            clean(one["forecast"]),
        )
    return table
