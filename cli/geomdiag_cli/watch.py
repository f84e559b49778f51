"""`geomdiag watch`: a folder of checkpoints analysed while it grows."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomdiag.errors import GeomdiagError
from geomdiag_cli.analyze import default_out
from geomdiag_cli.asked import NOTHING, AllowPickle, Asked, Out, Task, asking
from geomdiag_cli.console import SOME_FAILED, UNUSABLE, Debug, Quiet, clean, say
from geomdiag_cli.live_view import View

if TYPE_CHECKING:
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
    view = View(path, quiet=quiet)
    page = None if report is None else _Page(report)
    looks: list[Look] = []

    def see(*, complete: bool = False) -> Look:
        looks[:] = [follower.look(complete=complete)]  # kept though a signal ends what follows
        view.show(looks[0])
        if page is not None:
            page.show(looks[0])
        view.warn(looks[0].unsaved, page.problem if page is not None else "")
        return looks[0]

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
        say(f"Ended. {_where(target, looks[0] if looks else None)}")
        if page is not None and page.problem:
            say(f"The page is not current: {page.problem}")
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
