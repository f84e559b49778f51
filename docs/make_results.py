"""Write docs/results.md: every variable of a result, in its own words.

Run ``python docs/make_results.py`` after a variable was added or its definition changed; a test
holds the page to what the code says.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import geomdiag as gd

HERE = Path(__file__).resolve().parent
RUN = HERE.parent / "fixtures" / "series" / "modadd-p31-mlp" / "seed=0"
#: Tasks with variables that modular addition has not.
OTHERS = ("graph:path-5", "comparison:3x3", "group:S3")

OPENING = """# What a result holds

This page is written by `python docs/make_results.py` from the attributes that every variable
carries.

A result is an `xarray.DataTree` with one node a run. `step` is the index (optimiser steps or
epochs, whatever the run counts in; irregular spacing is normal). A variable that could not be
computed is missing, and the node's attribute `not_computed` says why (JSON, diagnostic →
reason), or `not_applicable` where it has no meaning for the task; a single missing number is NaN.

```python
import geomdiag as gd

tree = gd.load("runs.geomdiag.zarr")
run = tree["modadd-p31-mlp__seed=0"]
run["symmetry_violation"].sel(symmetry="associativity", statistic="mean")
run["dimension"].sel(matrix="embedding", measure="effective_dimension")
```

Variables that share the dim `measure` share one list of labels; `.dropna("measure", how="all")`
keeps a variable's own. Diagnostics that are marked *on request* do not run by default: they are
costly (`--analyzers all`, or by name).
"""

TREE = """
## Attributes

Of the root: `task`, `task_parameters`, `geomdiag_version`, `configuration`, `split_source`,
`notices`. Of a node: `run` (the run's name; node names replace `/` by `__`), `path`, `format`,
`architecture`, `roles` (which tensor plays which part), `task`, `split_source`, `train_inputs`,
`run_config`, `assumptions`, `notices`, `not_computed`, `not_applicable`, `configuration` (what a
stored step must agree with to be used again); where rows of a larger vocabulary were chosen,
`tokens` (which, see [an embedding by itself](embedding-only.md)). Results hold no time of making:
the same input gives the same bytes.

## Coordinates from names

Settings that the names of a run's folders or file spell out (`runs/seed=3/wd=1.0/`, see
[formats](formats.md#sweeps)) are scalar coordinates of its node: `run["seed"]` is 3. A run whose
names say nothing has none. A setting that is called like a variable or a dim (`loss=mse`) is the
coordinate `name_loss`, in every run. So runs become one dataset:

```python
import geomdiag as gd
import xarray as xr

tree = gd.load("runs.geomdiag.zarr")
nodes = [node.to_dataset() for node in tree.children.values() if "seed" in node.coords]
many = xr.concat(nodes, "seed", data_vars="all", coords="minimal", compat="override")
```
"""


def collect() -> tuple[dict[str, xr.Variable], dict[str, str]]:
    """Return every variable of small results, and the diagnostic of each."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        files = sorted(RUN.glob("step_*.safetensors"))
        for file in [files[0], files[len(files) // 2], files[-1], RUN / "run.json"]:
            (run / file.name).write_bytes(file.read_bytes())
        found = [_only(gd.analyze(run, "modadd", analyzers=list(gd.ANALYZERS), workers=1))]
        for name in OTHERS:
            task, rng = gd.task(name), np.random.default_rng(0)
            file = Path(folder) / f"{task.family}.npz"
            logits = rng.normal(size=(len(task.inputs), task.classes))
            np.savez(file, logits=logits, embedding=rng.normal(size=(task.tokens, 4)), step=0)
            found.append(_only(gd.analyze(file, task, workers=1)))
    variables = {name: value.variable for one in reversed(found) for name, value in one.items()}
    owners = {
        name: analyzer.name for analyzer in gd.ANALYZERS.values() for name in analyzer.variables
    }
    return variables, owners


def _only(tree: xr.DataTree) -> xr.Dataset:
    return next(iter(tree.children.values())).to_dataset()


def page() -> str:
    """Return the text of docs/results.md."""
    variables, owners = collect()
    groups: dict[str, list[str]] = {name: [] for name in gd.ANALYZERS}
    for name in variables:
        groups.setdefault(owners.get(name, "run"), []).append(name)
    lines = [OPENING]
    for group, names in groups.items():
        if not names:
            continue
        note = ""
        if group in gd.ANALYZERS and not gd.ANALYZERS[group].default:
            note = " (on request)"
        title = "The run and its checkpoints" if group == "run" else f"`{group}`{note}"
        lines.append(f"## {title}\n")
        for name in sorted(names):
            attrs = variables[name].attrs
            dims = ", ".join(str(dim) for dim in variables[name].dims) or "one number a run"
            unit = attrs.get("units", "")
            unit = "" if unit in ("", "1") else f", in {unit}"
            heading = attrs.get("long_name", "")
            text = f"**`{name}`** ({dims}){unit}: {heading}."
            if definition := attrs.get("definition", ""):
                text += f" {definition.rstrip('.')}."
            if reference := attrs.get("reference", ""):
                text += f" [{reference}]"
            lines.append(f"- {text}")
        lines.append("")
    return "\n".join(lines) + TREE


if __name__ == "__main__":
    (HERE / "results.md").write_text(page(), encoding="utf-8")
