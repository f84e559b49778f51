"""`geomdiag calibrate`: thresholds of symmetry violation from one's own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomdiag_cli.console import Debug, Json, Quiet, clean, print_json, stdout


def command(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Results of analyze, or corpora (.zarr.zip)."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.json", help="Where to write them.")
    ] = Path("criterion.json"),
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Set the soft threshold of each task from runs that generalised and runs that did not.

    `geomdiag analyze --criterion FILE.json` says of each run whether it is below.
    """
    import xarray as xr

    import geomdiag as gd
    from geomdiag.dynamics.corpus import collect, join, load_corpus
    from geomdiag.dynamics.criterion import calibrate, save_criterion

    loose: list[tuple[str, xr.Dataset]] = []
    tables: list[xr.Dataset] = []
    for path in results:
        if path.is_file() and path.suffix == ".zip":
            tables.append(load_corpus(path))
            continue
        name = path.name.removesuffix(".zarr").removesuffix(".nc").removesuffix(".geomdiag")
        loose += [
            (f"{name}/{node.attrs.get('run', node.name)}", node.to_dataset())
            for node in gd.load(path).children.values()
        ]
    if loose:
        tables.append(collect(loose))
    found = calibrate(join(tables), source=", ".join(path.name for path in results))
    save_criterion(found, out)
    best = {task: rows[0] for task, rows in found["tasks"].items()}
    if json:
        print_json({"path": str(out), "runs": found["runs"], "tasks": best})
    elif not quiet:
        console = stdout()
        for task, one in best.items():
            console.print(
                f"{task}: {one['signal']} below {one['level']:.3g} nat, {one['runs']} runs, "
                f"{one['solved']} solved, AUROC {one['auroc']:.3f}, wrong for "
                f"{one['error'] if one['chosen_error'] is None else one['chosen_error']:.0%} of "
                "runs of left-out seeds",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )
        console.print(f"written: {clean(out)}", soft_wrap=True)
