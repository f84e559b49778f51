"""`geomdiag inspect`: what is there and what would be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from geomdiag_cli.asked import NOTHING, AllowPickle, Asked, Paths, Task, asking, open_all
from geomdiag_cli.console import SOME_FAILED, UNUSABLE, Debug, Json, clean, print_json, stdout
from geomdiag_cli.tables import count, listed, print_note

if TYPE_CHECKING:
    from rich.console import Console

    from geomdiag.inspection import Cost, RunInspection


#: Specifications that fit a checkpoint's sizes, shown before the others are counted.
FITTING = 4
#: Tensors without a part, shown before the others are counted.
UNUSED = 12


@asking
def command(
    paths: Paths,
    task: Task = None,
    asked: Asked = NOTHING,
    allow_pickle: AllowPickle = False,
    measure: Annotated[
        bool, typer.Option(help="Run one checkpoint of each kind to estimate the cost.")
    ] = True,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show what is there, what could be measured and what that would cost.

    Nothing is written. Which diagnostics can be computed depends on the task: give --task.
    Exit code 2 says that no run can be analysed, 3 that some cannot.
    """
    from geomdiag.inspection import inspect_runs

    runs, general = open_all(paths, asked.split, allow_pickle)
    found = inspect_runs(runs, task, measure=measure, **asked.arguments())
    if json:
        print_json({"notices": general, "runs": [asdict(one) for one in found]})
        _leave(found)
        return
    console = stdout()
    for place, one in enumerate(found):
        if place:
            console.print()
        _print(console, one)
    costs = [one.cost for one in found if one.cost is not None]
    if len(costs) > 1:
        whole = sum(cost.total for cost in costs)
        console.print(f"\nestimated cost of all {len(costs)} runs: {_time(whole)}")
    if general:
        console.print()
    for notice in general:
        print_note(console, "notice", notice, indent=0, style="yellow")
    if not any(one.task or one.problem for one in found):
        known = {one.recorded_task for one in found}
        said = f" {clean(known.pop())}" if len(known) == 1 and any(known) else ""
        console.print(
            f"\nWith --task{said} it also says which diagnostics can be computed, and the cost."
        )
    _leave(found)


def _leave(found: Sequence[RunInspection]) -> None:
    """End with an exit code that tells whether runs cannot be analysed."""
    hopeless = sum(bool(one.problem) for one in found)
    if hopeless:
        raise typer.Exit(UNUSABLE if hopeless == len(found) else SOME_FAILED)


def _print(console: Console, one: RunInspection) -> None:
    from rich.table import Table

    heading = f"{one.run}: {count(one.checkpoints, 'checkpoint')}, {one.format}"
    console.print(clean(heading), style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")

    def row(heading: str, text: str) -> None:
        table.add_row(f"  {heading}", clean(text, keep="\n"))

    if one.steps:
        first, last = one.steps
        row(f"{one.unit or 'step'}s", str(first) if first == last else f"{first} to {last}")
    if one.unreadable:
        row("unreadable", str(one.unreadable))
    if one.coordinates:
        row("coordinates", listed(one.coordinates))
    if one.recorded_task and one.recorded_task != one.task:
        row("trained on", one.recorded_task)
    if one.fitting:
        more = f" or {len(one.fitting) - FITTING} others" if len(one.fitting) > FITTING else ""
        row("sizes fit", ", ".join(one.fitting[:FITTING]) + more)
    if one.task:
        row("task", one.task)
    share = ""
    if one.train_inputs is not None and one.inputs:
        share = f", {one.train_inputs} of {one.inputs} inputs"
    row("split", one.split + share)
    row("recorded curves", ", ".join(one.recorded) or "none")
    if one.architecture:
        row("network", one.architecture + (f" ({one.convention})" if one.convention else ""))
    console.print(table)
    if one.roles:
        _tensors(console, one)
    if one.problem:
        print_note(console, "CANNOT BE ANALYSED", one.problem, style="bold red")
        _suggest(console, one)
    if one.computed or one.not_computed:
        console.print("  diagnostics")
        verdicts = Table.grid(padding=(0, 2))
        verdicts.add_column(no_wrap=True)
        verdicts.add_column(no_wrap=True)
        verdicts.add_column(overflow="fold")
        for name, variables in one.computed.items():
            verdicts.add_row(f"    {clean(name)}", "yes", clean(", ".join(variables)))
        for name, reason in one.not_computed.items():
            verdicts.add_row(f"    {clean(name)}", "no", clean(reason))
        console.print(verdicts)
    if one.cost is not None:
        print_note(console, "estimated cost", _cost(one.cost))
    for notice in one.notices:
        print_note(console, "notice", notice, style="yellow")


def _suggest(console: Console, one: RunInspection) -> None:
    """Print the lines that would name the embedding."""
    if not one.suggestions:
        return
    best, *others = one.suggestions
    part, _, name = best.partition("=")
    folder = one.path if one.path.is_dir() else one.path.parent
    lines = [
        "If this is the embedding, it is analysed by itself with",
        f"  --map {best}",
        f"or with these lines in {folder / 'geomdiag.toml'}",
        "  [map]",
        f'  {part} = "{name}"',
    ]
    lines.append("and, if it has more rows than the task has elements, --tokens (which rows)")
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        lines.append(f"other guesses: {', '.join(others[:5])}{more}")
    for line in lines:
        console.print(f"    {clean(line)}", soft_wrap=True)


def _tensors(console: Console, one: RunInspection) -> None:
    from rich.table import Table

    console.print("  tensors")
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for part, name in one.roles.items():
        shape = "×".join(map(str, one.shapes.get(name, ()))) or "scalar"
        table.add_row(f"    {clean(part)}", clean(name), shape)
    for name in one.unused[:UNUSED]:
        shape = "×".join(map(str, one.shapes.get(name, ()))) or "scalar"
        table.add_row("    not used", clean(name), shape)
    if len(one.unused) > UNUSED:
        table.add_row("    not used", f"and {len(one.unused) - UNUSED} more", "")
    console.print(table)


def _cost(cost: Cost) -> str:
    crew = "1 process" if cost.workers == 1 else f"{cost.workers} processes"
    text = f"{_time(cost.total)} with {crew} ({_time(cost.per_checkpoint)} a checkpoint"
    if cost.memory:
        text += f", {cost.memory / 1e6:.0f} MB a process"
    return text + ", measured on one checkpoint)"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
