"""Write what the registries know into the site: a page a task family, and a table a diagnostic.

Run ``python docs/make_pages.py`` after a task, a diagnostic or their declarations changed; a test
holds the pages to what the code says. docs/task-families/ is written whole, of the pages in
docs/diagnostics/ the table between the two comments.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import geomdiag as gd
from geomdiag.tasks.families import TASKS

HERE = Path(__file__).resolve().parent
DIAGNOSTICS, FAMILIES = HERE / "diagnostics", HERE / "task-families"
RECIPES, SERIES = HERE.parent / "fixtures" / "recipes", HERE.parent / "fixtures" / "series"
OPEN, CLOSE = "<!-- facts: written by docs/make_pages.py -->", "<!-- end of facts -->"

NEEDS = {
    "logits": "logits over all inputs",
    "matrices": "matrices whose rows are tokens or classes",
    "embedding": "the token embedding",
    "split": "the train/held-out split",
    "differentiable": "a network that can be run from its embeddings",
}
#: Small tasks of each family, which are looked at for what they yield.
SMALL = {"graph": "graph:lattice-2x3", "group": "group:S3", "comparison": "comparison:3x3"}


def facts(name: str) -> str:
    """Return the table of a diagnostic."""
    analyzer = gd.ANALYZERS[name]
    meant = {family.name: meaningful(analyzer, family) for family in gd.task_families()}
    links = [family_link(one, share) for one, share in meant.items() if share]
    asked = f"on request: `--analyzers default,{name}`"
    rows = {
        "needs": ", ".join(NEEDS[part] for part in analyzer.needs),
        "runs": "by default" if analyzer.default else asked,
        "tasks": "all" if set(meant.values()) == {1.0} else ", ".join(links),
        "variables": ", ".join(f"`{one}`" for one in analyzer.variables),
    }
    lines = [f"| **{key}** | {value} |" for key, value in rows.items()]
    return "\n".join([f"| diagnostic | `{name}` |", "|---|---|", *lines])


def meaningful(analyzer: gd.Analyzer, family: Any) -> float:
    """Return for what share of a family's examples a diagnostic has a meaning."""
    tried = getattr(TASKS[family.name], "examples", ()) or (small(family.name),)
    return float(np.mean([not analyzer.applies(gd.task(one)) for one in tried]))


def family_link(family: str, share: float) -> str:
    """Return a link from a diagnostic to a family's page."""
    return f"[{family}](../task-families/{family}.md){'' if share == 1.0 else ' (some)'}"


def with_facts(text: str, name: str) -> str:
    """Return a diagnostic's page with its table written anew."""
    before, _, rest = text.partition(OPEN)
    _, found, after = rest.partition(CLOSE)
    if not found:
        raise ValueError(f"{name}.md: expected {OPEN!r} and {CLOSE!r}, around its table")
    return f"{before}{OPEN}\n{facts(name)}\n\n{CLOSE}{after}"


def small(family: str) -> str:
    """Return a specification of the family that is quick to work on."""
    return SMALL.get(family, f"{family}:p=7")


def said(cls: Any, name: str) -> str:
    """Return the first sentence of what a class says about one of its properties."""
    text = inspect.getdoc(inspect.getattr_static(cls, name)) or ""
    first = re.split(r"(?<=\.)\s|\n\n", text)[0].replace("``", "`").replace("\n", " ")
    return re.sub(r", \([^()]*\)(?=[.;,])", "", first)  # shapes are for programs


def yielded(specification: str) -> dict[str, Any]:
    """Return the diagnostics of a task: variables of each, or why there are none."""
    task, rng = gd.task(specification), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {
            "logits": rng.normal(size=(len(task.inputs), task.classes)),
            "embedding": rng.normal(size=(task.tokens, 4)),
            "unembedding": rng.normal(size=(task.classes, 4)),
            "neuron_input": rng.normal(size=(task.tokens, 5)),
            "train_mask": rng.random(len(task.inputs)) < 0.5,
        }
        np.savez(Path(folder) / "step_0.npz", **arrays)
        (run,) = gd.analyze(folder, task, analyzers=["all"], workers=1).children.values()
    reasons = json.loads(run.attrs.get("not_applicable", "{}"))
    found: dict[str, Any] = {}
    for name, analyzer in gd.ANALYZERS.items():
        there = [one for one in analyzer.variables if one in run.data_vars]
        # a dump is no network, so that what needs one is taken at its word
        found[name] = reasons.get(name) or there or list(analyzer.variables)
    return found


def family_page(family: Any) -> str:
    """Return the page of a task family."""
    cls, task = TASKS[family.name], gd.task(family.example)
    lines = [
        f"# {family.name}\n",
        f"*{family.title}*. {paragraph(cls)}\n",
        "| parameter | meaning |\n|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in family.parameters.items()),
        f"\n## `{task.name}`\n",
        "```python\nimport geomdiag as gd\n",
        f'task = gd.task("{task.name}")',
        *examples(task),
        "```\n",
        sizes(task),
        "\n### Symmetries\n",
        "| symmetry | definition | instances |\n|---|---|---|",
        *(symmetry_row(one) for one in task.symmetries),
        *(f"\nLeft out: {name}, because {why}." for name, why in task.left_out.items()),
        "\nAn instance of an equivalence is an ordered pair of inputs (of antisymmetry an "
        "unordered one), of a composition a triple of tokens; "
        "[symmetry](../diagnostics/symmetry.md) says how they are averaged.\n",
        "### Harmonic basis\n",
        f"{said(cls, 'basis')} {basis_words(task)}\n",
        "### Metric\n",
        f"{said(cls, 'metric')} Between different tokens it is {span(task)}.\n",
        *orders(cls, task),
        "## What it yields\n",
        f"Of a network on `{small(family.name)}` with embedding, read-out and neurons, the split "
        "known:\n",
        "| diagnostic | variables |\n|---|---|",
        *(yield_row(name, found) for name, found in yielded(small(family.name)).items()),
        "\n" + recipes(family.name),
    ]
    return "\n".join(lines).rstrip() + "\n"


def paragraph(cls: Any) -> str:
    """Return what stands in a class's docstring before its parameters."""
    text = (inspect.getdoc(cls) or "").split("\nParameters\n")[0].strip()
    return text.replace("``", "`")


def examples(task: gd.Task) -> list[str]:
    """Return lines that show three inputs and their answers."""
    count = len(task.inputs)
    rows = (count // 7 + 1, count // 2 + 2, count - 2)
    return [
        f"task.inputs[{row}], task.answers[{row}]  # {task.inputs[row].tolist()}, "
        f"{int(task.answers[row])}"
        for row in rows
    ]


def sizes(task: gd.Task) -> str:
    """Return how large a task is, in words."""
    likeliest = np.bincount(task.answers).max() / len(task.answers)
    further = f" and {task.vocabulary - task.tokens} further symbols"
    return (
        f"{len(task.inputs)} inputs of {task.inputs.shape[1]} symbols; {task.tokens} tokens"
        f"{further if task.vocabulary > task.tokens else ''}; {task.classes} classes, of which the "
        f"most frequent is right for {100 * likeliest:.3g} % of the inputs."
    )


def symmetry_row(one: Any) -> str:
    """Return a symmetry's row of the table."""
    composition = isinstance(one, gd.tasks.Composition)
    count = len(one.whole) if composition else one.instances()
    sampled = "" if not composition or one.exact else " (a sample)"
    return f"| `{one.name}` | {one.definition} | {count}{sampled} |"


def basis_words(task: gd.Task) -> str:
    """Return how many blocks a basis has, and what they are called."""
    labels = task.basis.labels[1:]
    shown = ", ".join(f"`{label}`" for label in labels[:6])
    more = f", … `{labels[-1]}`" if len(labels) > 6 else ""
    left = task.tokens - len(task.basis.members)
    without = f" {left} token has no place in it." if left else ""
    classes = "The classes carry one, too." if task.class_basis is not None else ""
    return f"{len(labels)} blocks beside the constants: {shown}{more}.{without} {classes}".rstrip()


def span(task: gd.Task) -> str:
    """Return the smallest and the largest distance, in words."""
    values = task.metric[~np.eye(task.tokens, dtype=bool)]
    finite = values[np.isfinite(values)]
    rest = "; a token outside has none" if len(finite) < len(values) else ""
    return f"{finite.min():g} to {finite.max():g}{rest}"


def orders(cls: Any, task: gd.Task) -> list[str]:
    """Return the section about ranks, where tokens have any."""
    if not task.orders:
        return []
    names = ", ".join(f"`{name}`" for name in task.orders)
    return ["### Orders\n", f"{said(cls, 'orders')} Attributes: {names}.\n"]


def yield_row(name: str, found: Any) -> str:
    """Return a diagnostic's row of the table."""
    link = f"[{name}](../diagnostics/{name}.md)"
    if isinstance(found, str):
        return f"| {link} | – ({found}) |"
    return f"| {link} | {', '.join(f'`{one}`' for one in found)} |"


def recipes(family: str) -> str:
    """Return which recipes and recorded runs are of a family, in words."""
    mine = []
    for path in sorted(RECIPES.glob("*.toml")):
        task = str(tomllib.loads(path.read_text(encoding="utf-8")).get("task", ""))
        if task.partition(":")[0] == family:
            mine.append(path.stem)
    recorded = [name for name in mine if (SERIES / name).is_dir()]
    words = f"[Recipes](../training.md#recipes): {', '.join(f'`{name}`' for name in mine)}."
    if recorded:
        words += f" Recorded in `fixtures/series`: {', '.join(f'`{name}`' for name in recorded)}."
    return words if mine else ""


def index() -> str:
    """Return the page that lists the families."""
    families = gd.task_families()
    rows = [
        f"| [{one.name}]({one.name}.md) | {one.title} | {', '.join(one.symmetries)} | "
        f"`{one.example}` |"
        for one in families
    ]
    return "\n".join(
        [
            "# Task families\n",
            "Written by `python docs/make_pages.py` from the registry, a page a family. How tokens "
            "are numbered and blocks are named stands in [tasks](../tasks.md).\n",
            "| family | what is learnt | symmetries | example |\n|---|---|---|---|",
            *rows,
            "\n```{toctree}\n:hidden:\n",
            *(one.name for one in families),
            "```\n",
        ]
    )


def pages() -> dict[Path, str]:
    """Return the text of every page that is written here."""
    texts = {FAMILIES / "index.md": index()}
    for family in gd.task_families():
        texts[FAMILIES / f"{family.name}.md"] = family_page(family)
    for name in gd.ANALYZERS:
        path = DIAGNOSTICS / f"{name}.md"
        texts[path] = with_facts(path.read_text(encoding="utf-8"), name)
    return texts


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
