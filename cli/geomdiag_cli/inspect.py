"""`geomdiag inspect`: what is there and what would be done with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from geomdiag_cli.analyze import (
    AllowPickle,
    Analyzers,
    Model,
    Paths,
    Skip,
    Split,
    Workers,
    choose,
    open_all,
)
from geomdiag_cli.console import Debug, Json, clean, print_json, stdout
from geomdiag_cli.tables import count, listed, print_note

if TYPE_CHECKING:
    from rich.console import Console

    from geomdiag.inspection import Cost, RunInspection


#: Specifications that fit a checkpoint's sizes, shown before the others are counted.
FITTING = 4


def command(
    paths: Paths,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Such as modadd or modadd:p=113.")
    ] = None,
    split: Split = None,
    model: Model = None,
    analyzers: Analyzers = "",
    skip: Skip = "",
    workers: Workers = None,
    allow_pickle: AllowPickle = False,
    measure: Annotated[
        bool, typer.Option(help="Run one checkpoint of each kind to estimate the cost.")
    ] = True,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show what is there, what could be measured and what that would cost.

    Nothing is written. Which diagnostics can be computed depends on the task: give --task.
    """
    from geomdiag.inspection import inspect_runs

    runs, general = open_all(paths, split, allow_pickle)
    found = inspect_runs(
        runs,
        task,
        analyzers=choose(analyzers, skip),
        model=model,
        split=split,
        workers=workers,
        measure=measure,
    )
    if json:
        print_json({"notices": general, "runs": [asdict(one) for one in found]})
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
    if task is None:
        known = {one.recorded_task for one in found}
        said = f" {clean(known.pop())}" if len(known) == 1 and any(known) else ""
        console.print(
            f"\nWith --task{said} it also says which diagnostics can be computed, and the cost."
        )


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


def _tensors(console: Console, one: RunInspection) -> None:
    from rich.table import Table

    console.print("  tensors")
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for part, name in one.roles.items():
        shape = "×".join(map(str, one.shapes.get(name, ()))) or "scalar"
        table.add_row(f"    {clean(part)}", clean(name), shape)
    for name in one.unused:
        shape = "×".join(map(str, one.shapes.get(name, ()))) or "scalar"
        table.add_row("    not used", clean(name), shape)
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
