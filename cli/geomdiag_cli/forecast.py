"""`geomdiag forecast`: when each run of a result will generalise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomdiag_cli.console import Debug, Json, clean, print_json, stdout


def command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A result of analyze.")],
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="STEP", help="Last step that the runs may take."),
    ] = None,
    forecaster: Annotated[
        Path | None,
        typer.Option("--forecaster", metavar="FILE.json", help="One from `evaluate --save`."),
    ] = None,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Say when each run will generalise, from its checkpoints so far.

    Made anew from the stored numbers; the result itself is left as it is. With --json, one
    object that a training loop can read: for each run the forecast at its last step.
    """
    import geomdiag as gd
    from geomdiag.dynamics.forecast import forecast, load_forecaster, newest

    tree = gd.load(result)
    models = None if forecaster is None else load_forecaster(forecaster)
    made = forecast(tree, budget=budget, forecasters=models)
    runs = {
        str(node.attrs.get("run", node.name)): node.to_dataset()
        for node in made.children.values()
        if "step" in node.dims
    }
    if json:
        print_json({"path": str(result), "runs": {name: newest(one) for name, one in runs.items()}})
        return
    console = stdout()
    for name, one in runs.items():
        console.print(clean(name), soft_wrap=True)
        words = clean(str(one["forecast_verdict"].values))
        console.print(f"  {words}", soft_wrap=True)
