"""Where words go (results to stdout, everything else to stderr) and how errors end a command."""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any, Self, TextIO

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

__all__ = [
    "Bar",
    "Debug",
    "Json",
    "Quiet",
    "ReportingGroup",
    "clean",
    "plain_warnings",
    "print_json",
    "say",
    "stderr",
    "stdout",
]

#: Exit codes; 0 is success and 1 is left to Python (a bug in geomdiag, with its traceback).
UNUSABLE, SOME_FAILED, INTERRUPTED = 2, 3, 130

_DEBUG = "geomdiag.debug"


def _keep_debug(context: typer.Context, wanted: bool) -> bool:
    context.find_root().meta[_DEBUG] = wanted
    return wanted


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_keep_debug, help="Show the traceback of an error."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no table.")]


class ReportingGroup(TyperGroup):
    """Command group that turns the library's errors into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        from geomdiag.errors import GeomdiagError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except GeomdiagError as error:
            if ctx.meta.get(_DEBUG):
                raise
            say(f"Error: {error}")
            raise typer.Exit(UNUSABLE) from None


def say(message: str) -> None:
    """Print a message for a person on stderr."""
    typer.echo(clean(message, keep="\n"), err=True)


def clean(text: object, keep: str = "") -> str:
    """Return `text` with control characters (of a file's name, say) made visible."""
    return "".join(
        character if character.isprintable() or character in keep else f"\\x{ord(character):02x}"
        for character in str(text)
    )


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class Plain(Console):
        """A console that leaves no trailing blanks in a pipe or a file."""

        def print(self, *objects: Any, **options: Any) -> None:
            if self.is_terminal:
                super().print(*objects, **options)
                return
            with self.capture() as captured:
                super().print(*objects, **options)
            lines = captured.get().split("\n")
            self.file.write("\n".join(line.rstrip() for line in lines))

    # Nothing is coloured in a pipe; Rich falls back to 80 columns there.
    return Plain(file=stream, highlight=False, markup=False, emoji=False)


def stdout() -> Console:
    """Return the console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return the console for progress and notices."""
    return _console(sys.stderr)


class Bar:
    """Progress on stderr: a bar on a terminal, nothing elsewhere.

    Parameters
    ----------
    *columns : rich.progress.ProgressColumn
        What the bar shows.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        from rich.progress import Progress

        console = stderr()
        self._bar = Progress(
            *columns, console=console, disable=not console.is_terminal, transient=True
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # else an older rich ends the line that it did not begin
            self._bar.stop()


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout; numbers that JSON lacks (NaN, infinity) become null."""
    typer.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return _finite(value.item())
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def plain_warnings() -> None:
    """Show warnings as one line each, without the line of code that raised them."""

    def show(message: Any, category: Any, *_: Any, **__: Any) -> None:
        if not issubclass(category, DeprecationWarning | ResourceWarning):
            say(f"warning: {message}")

    warnings.showwarning = show
