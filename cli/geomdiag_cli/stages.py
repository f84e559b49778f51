"""`geomdiag stages`: where the stages of each run begin, and how surely."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomdiag_cli.console import Debug, Json, clean, print_json, stdout
from geomdiag_cli.tables import between, print_note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

#: Boundary to what it is called.
_NAMES = {
    "t_memorised": "memorised",
    "t_symmetry": "symmetry from",
    "t_generalised": "generalised",
    "t_acquired": "symmetry settled",
    "t_geometry": "geometry from",
    "t_settled": "geometry settled",
    "t_solved": "solved",
}


def command(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="What geomdiag analyze left behind.")
    ],
    samples: Annotated[
        int, typer.Option("--samples", min=19, help="Replicates of the bootstraps.")
    ] = 399,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstraps.")] = 0,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Tell where the stages of each run begin, between which steps, and why.

    The stages are computed anew from the result; nothing is written. A step in brackets is the
    first at which the state was seen before it was lost again. Behind "between", a percentage says
    that it is an interval of that probability; without one it is the gap between two checkpoints.
    """
    from geomdiag.dynamics.segment import segment
    from geomdiag.store import load
    from geomdiag.summary import summarise

    summaries = summarise(segment(load(result), samples=samples, seed=seed))
    if json:
        keys = ("run", "task", "stage", "stage_order", "stage_order_probability", "boundaries")
        print_json(
            {"result": str(result), "runs": [{key: one[key] for key in keys} for one in summaries]}
        )
        return
    console = stdout()
    for place, one in enumerate(summaries):
        if place:
            console.print()
        _print(console, one)


def _print(console: Console, one: Mapping[str, Any]) -> None:
    from rich.table import Table

    console.print(clean(f"{one['run']}: {one['task']}"), style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("boundary", one["unit"], "between", "evidence"):
        table.add_column(heading, no_wrap=heading == "boundary", overflow="fold")
    for name, boundary in one["boundaries"].items():
        step, first = boundary["step"], boundary["first"]
        text = "–" if step is None else str(step)
        if first is not None and first != step:
            text += f" ({first})"
        interval = "record's start" if boundary["or_earlier"] else between(boundary)
        if (share := boundary["interval_prob"]) is not None:
            interval += f" ({100 * share:.0f} %)"
        table.add_row(
            f"  {_NAMES.get(name, clean(name))}", text, interval, clean(boundary["evidence"])
        )
    console.print(table)
    print_note(console, "stage at the end", one["stage"].replace("_", " "))
    print_note(console, "order of stages", one["stage_order"])
