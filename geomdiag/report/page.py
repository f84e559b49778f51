"""The report: one HTML file that needs nothing else, written from a result."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from geomdiag.errors import GeomdiagError
from geomdiag.report.data import Course, courses, spectra, steps_of
from geomdiag.report.figures import ALL_FIGURES, figures_of_run, figures_of_runs
from geomdiag.report.paths import match, token_paths
from geomdiag.report.words import (
    BOUNDARIES,
    INTERVALS,
    Verdict,
    number,
    overview,
    stage_since,
    verdict,
    when,
)
from geomdiag.summary import summarise

if TYPE_CHECKING:
    import xarray as xr

    from geomdiag.checkpoints import Series
    from geomdiag.tasks.contract import Task

__all__ = ["render", "report"]

#: Runs up to which every run's verdict is open from the start.
OPEN = 3
#: Steps of all runs together that the embedding is held at, for the page's size.
PICTURES = 300
_NO_CHECKPOINTS = (
    "A result holds no embeddings. To see the tokens move, make the report with the checkpoints: "
    "geomdiag report RESULT --checkpoints RUNS --task TASK."
)
#: What a URL may hold as it is; the rest of the JSON is percent-encoded.
_SAFE = " !$'()*+,/:;=?@[]{}|^~&"
#: Columns of the table of runs that are text.
_TEXT = ("run", "task", "stage", "key blocks")


@dataclass(frozen=True)
class _Run:
    """All that the page says of one run."""

    place: int
    summary: Mapping[str, Any]
    verdict: Verdict
    dataset: xr.Dataset
    steps: list[int]
    courses: list[Course]
    tokens: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.summary["run"])


def report(
    tree: xr.DataTree,
    path: str | os.PathLike[str],
    *,
    runs: Mapping[str, Series] | None = None,
    task: str | Task | None = None,
    model: str | None = None,
    title: str | None = None,
) -> Path:
    """Write the report of a result as one HTML file.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it.
    path : path
        File to write; what was there is replaced.
    runs, task, model, title
        As in `render`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    GeomdiagError
        As in `render`.
    StoreError
        If the file cannot be written.
    """
    from geomdiag._replace import write_text

    return write_text(render(tree, runs=runs, task=task, model=model, title=title), path)


def render(
    tree: xr.DataTree,
    *,
    runs: Mapping[str, Series] | None = None,
    task: str | Task | None = None,
    model: str | None = None,
    title: str | None = None,
) -> str:
    """Return the report of a result as HTML.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it.
    runs : mapping of str to Series, optional
        The checkpoints, as `geomdiag.open_runs` gives them, for the picture of the embedding at
        each step.
    task : str or Task, optional
        What the checkpoints were trained for; needed with `runs`.
    model : str, optional
        Your own model, as `geomdiag.analyze` takes it.
    title : str, optional
        Of the page. Left out: the tasks of the runs.

    Returns
    -------
    str
        A page that loads nothing; the same result gives the same characters.

    Raises
    ------
    GeomdiagError
        If the result holds no run with a checkpoint, `runs` come without a task or hold none of
        the result's runs, or matplotlib is not installed.
    """
    import xarray as xr

    from geomdiag.plots.style import pyplot

    pyplot()  # or the error that says what to install, before any work
    if all("step" not in node.coords for node in tree.children.values()):
        raise GeomdiagError("the result holds no run with a checkpoint; there is nothing to report")
    if runs is not None and task is None:
        raise GeomdiagError("found checkpoints without a task; say what they were trained for")
    attrs = tree.attrs
    # in one order, however the tree was put together
    names = [name for name, node in sorted(tree.children.items()) if "step" in node.coords]
    tree = xr.DataTree.from_dict({f"/{name}": tree[name].to_dataset() for name in names})
    most = max(2, PICTURES // len(names))
    told = [
        _gather(place, summary, tree[summary["node"]].to_dataset(), runs, task, model, most)
        for place, summary in enumerate(sorted(summarise(tree), key=_natural))
    ]
    if runs is not None and not any("checkpoints" not in one.tokens for one in told):
        raise GeomdiagError(
            f"the checkpoints are of other runs ({_few(runs)}) than the result "
            f"({_few([one.name for one in told])}); give the folder that it was made from"
        )
    tasks = sorted({str(one.summary["task"]) for one in told} - {""})
    heading = title if title is not None else f"Report: {', '.join(tasks) or 'training runs'}"
    body = [
        f"<header><div class=bar><button type=button id=theme class=js hidden></button></div>"
        f"<h1>{escape(heading)}</h1><p class=lead>{escape(overview([r.summary for r in told]))}</p>"
        "</header><main id=main>",
        _verdicts(told),
        _table(told),
        _step_by_step(told),
        _runs(told, tree),
        _about(attrs),
        "</main>",
    ]
    return _frame(heading, "\n".join(body))


def _gather(
    place: int,
    summary: Mapping[str, Any],
    dataset: xr.Dataset,
    runs: Mapping[str, Series] | None,
    task: str | Task | None,
    model: str | None,
    most: int,
) -> _Run:
    steps = steps_of(dataset)
    series = match(runs, str(summary["run"]), str(summary["node"]))
    if series is not None and task is not None:
        digests = dataset["digest"].values.astype(str).tolist() if "digest" in dataset else None
        tokens = token_paths(series, steps, task, model=model, digests=digests, most=most)
    elif runs is not None:
        tokens = {"reason": "No checkpoints of this run were given.", "checkpoints": False}
    else:
        tokens = {"reason": _NO_CHECKPOINTS}
    return _Run(
        place,
        summary,
        verdict(summary, stage_since(dataset)),
        dataset,
        steps,
        courses(dataset) if steps else [],
        tokens,
    )


def _natural(summary: Mapping[str, Any]) -> list[Any]:
    """Return what sorts seed=2 before seed=10."""
    parts = re.split(r"(\d+)", str(summary["run"]))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _few(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")


def _frame(title: str, body: str) -> str:
    room = files("geomdiag.report")
    css = room.joinpath("page.css").read_text(encoding="utf-8")
    script = room.joinpath("page.js").read_text(encoding="utf-8")
    # the policy holds the page to what it says: it loads nothing from anywhere
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the verdict</a>\n'
        f"{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _verdicts(told: Sequence[_Run]) -> str:
    parts = ["<section aria-labelledby=verdict><h2 id=verdict>Verdict</h2>"]
    for one in told:
        parts += [
            f'<p class="warning"><strong>{escape(one.name)}:</strong> {escape(text)}</p>'
            for text in _warnings(one.summary)
        ]
    for one in told:
        opened = " open" if len(told) <= OPEN else ""
        parts.append(
            f"<details{opened}><summary><strong>{escape(one.name)}</strong>: "
            f"{escape(one.verdict.stage)}</summary><dl>"
            f"<dt>Which stage<dd>{escape(one.verdict.stage)}"
            f"<dt>Since when<dd>{escape(one.verdict.since)}"
            f"<dt>How sure<dd>{escape(one.verdict.sure)}"
            f"<dt>What comes next<dd>{escape(one.verdict.next)}</dl></details>"
        )
    return "\n".join(parts) + "</section>"


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    """Return what puts the rest in doubt, or is missing from it."""
    found = [text for text in summary["notices"] if text.startswith("WARNING: ")]
    found += [f"recorded and recomputed values disagree: {t}" for t in summary["disagreement"]]
    if errors := summary["errors"]:
        first = errors[0]
        found.append(
            f"{len(errors)} of {summary['checkpoints']} checkpoints failed in part or whole; the "
            f"first is {summary['unit']} {first['step']} ({first['status']}): {first['error']}"
        )
    return found


def _columns(one: _Run) -> dict[str, Any]:
    """Return a run's row of the table: heading to value, None where there is none."""
    summary = one.summary
    bounds, key = summary["boundaries"], summary["key_blocks"]
    row: dict[str, Any] = {
        "run": one.name,
        "task": summary["task"],
        "stage": summary["stage"].replace("_", " "),
        "checkpoints": summary["checkpoints"],
        "failed": summary["failed"] + summary["partial"],
        "last step": summary["steps"][1] if summary["steps"] else None,
    }
    names = {"train": "train accuracy", "heldout": "held-out accuracy", "all": "accuracy"}
    row |= {names[part]: value for part, value in summary["accuracy"].items()}
    row |= {BOUNDARIES[name]: bound["step"] for name, bound in bounds.items() if name in BOUNDARIES}
    row |= {
        f"{symmetry.replace('_', ' ')} (nat)": value["last"]
        for symmetry, value in summary["symmetry_violation"].items()
    }
    if (size := summary["effective_dimension"]) is not None:
        row["effective dimension"] = size["last"]
    if key is not None:
        row["key blocks"] = ", ".join(key["blocks"])
    return row


def _table(told: Sequence[_Run]) -> str:
    rows = [_columns(one) for one in told]
    headings = _merged([list(row) for row in rows])
    head = "".join(
        f"<th scope=col data-kind={'text' if name in _TEXT else 'number'}>{escape(name)}"
        for name in headings
    )
    body = []
    for one, row in zip(told, rows, strict=True):
        cells = []
        for name in headings:
            value = row.get(name)
            raw = "" if value is None else str(value)
            if name == "run":
                cells.append(
                    f'<th scope=row data-value="{escape(raw)}">'
                    f'<a href="#run{one.place}">{escape(raw)}</a>'
                )
            elif name in _TEXT:
                cells.append(
                    f'<td class=text data-value="{escape(raw)}">{escape(_short(raw)) or "–"}'
                )
            else:
                cells.append(f'<td data-value="{escape(raw)}">{number(value)}')
        body.append(f"<tr>{''.join(cells)}")
    return (
        "<section aria-labelledby=runs><h2 id=runs>Runs</h2>"
        '<div class="bar js" hidden><button type=button id=save-runs>This table (CSV)</button>'
        "<button type=button id=save-steps>Every step of every run (CSV)</button>"
        "<button type=button id=save-all>Everything (JSON)</button></div>"
        "<p class=soft>Violations are means of the symmetric KL divergence, in nats. A dash: not "
        "reached, or not known. <span class=js hidden>Choose a heading to sort by it.</span></p>"
        '<div class=wide role=group tabindex=0 aria-label="Table of runs, scrolls">'
        "<table id=runs-table><caption>Each run as it ends</caption>"
        f"<thead><tr>{head}<tbody>{''.join(body)}</table></div></section>"
    )


def _short(text: str) -> str:
    """Return a list's first entries where it would make the table's rows high."""
    entries = text.split(", ")
    return text if len(entries) <= 5 else f"{', '.join(entries[:4])} and {len(entries) - 4} more"


def _merged(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the headings of all rows, each after those it follows in the first row that has it."""
    found: list[str] = []
    for row in rows:
        at = 0
        for name in row:
            if name in found:
                at = found.index(name) + 1
            else:
                found.insert(at, name)
                at += 1
    return found


def _step_by_step(told: Sequence[_Run]) -> str:
    shown = [one for one in told if one.steps]
    options = "".join(f"<option value={one.place}>{escape(one.name)}" for one in shown)

    def panel(name: str, heading: str, content: str) -> str:
        return f"<div class=panel id={name}><h3>{heading}</h3>{content}</div>"

    return (
        "<section aria-labelledby=by-step><h2 id=by-step>Step by step</h2>"
        "<noscript><p class=missing>Moving through the steps needs JavaScript. All its numbers are "
        "in the tables of each run below.</noscript>"
        "<div id=steps hidden><div class=bar><label for=run>Run</label>"
        f"<select id=run>{options}</select></div>"
        '<div class="bar steps"><label for=step>Step</label>'
        "<input type=range id=step min=0 max=0 value=0>"
        "<output id=step-told for=step aria-live=polite></output></div><div class=view>"
        + panel(
            "tokens", "Embedding", '<svg viewBox="0 0 420 420" role=img></svg><p class=soft></p>'
        )
        + panel(
            "spectrum",
            "Spectrum of the embedding",
            '<svg viewBox="0 0 430 225" role=img></svg><p class=soft></p>',
        )
        + panel(
            "course",
            "Course",
            "<p><label for=quantity>Quantity</label> <select id=quantity></select></p>"
            '<svg viewBox="0 0 430 225" role=img></svg>',
        )
        + panel(
            "values",
            "Numbers at this step",
            '<div class=tall role=group tabindex=0 aria-label="Numbers, scroll"><table>'
            "<caption>To four significant digits</caption>"
            "<thead><tr><th scope=col>quantity<th scope=col>value<tbody></table></div>",
        )
        + "</div></div></section>"
    )


def _runs(told: Sequence[_Run], tree: xr.DataTree) -> str:
    parts = ["<section aria-labelledby=each><h2 id=each>Figures and numbers</h2>"]
    parts += figures_of_runs(tree)
    few = len(told) > ALL_FIGURES
    if few:
        parts.append(
            f"<p class=soft>With more than {ALL_FIGURES} runs each shows its development only; "
            "geomdiag plot draws the others.</p>"
        )
    for one in told:
        opened = " open" if len(told) == 1 else ""
        parts.append(
            f"<details id=run{one.place}{opened}><summary><strong>{escape(one.name)}</strong>: "
            f"{escape(str(one.summary['task']))}, {escape(str(one.summary['architecture']))}"
            f"</summary><h3>Figures of {escape(one.name)}</h3>"
        )
        if one.steps:
            parts += figures_of_run(one.dataset, prefix=f"r{one.place}", few=few)
        parts += [_boundaries(one), _steps_table(one), _notes(one), _download(one), "</details>"]
    return "\n".join(parts) + "</section>"


def _boundaries(one: _Run) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(BOUNDARIES.get(name, name))}<td class=at>{escape(when(bound))}"
        f"<td class=evidence>{escape(bound['evidence']) or '–'}"
        for name, bound in one.summary["boundaries"].items()
    )
    if not rows:
        return "<p class=missing>This result tells no boundaries of stages.</p>"
    return (
        '<div class=wide role=group tabindex=0 aria-label="Boundaries, scrolls"><table>'
        f"<caption>Where the stages begin, in {one.summary['unit']}s. {INTERVALS}</caption>"
        "<thead><tr><th scope=col>boundary<th scope=col>at<th scope=col>evidence"
        f"<tbody>{rows}</table></div>"
    )


def _steps_table(one: _Run) -> str:
    if not one.courses:
        return "<p class=missing>No number of this run is known at any step.</p>"
    status = _status(one)
    head = "".join(
        f"<th scope=col>{escape(course.label)}{f' ({course.unit})' if course.unit else ''}"
        for course in one.courses
    )
    rows = "".join(
        f"<tr><th scope=row>{step}<td>{escape(status[i])}"
        + "".join(f"<td>{number(course.values[i])}" for course in one.courses)
        for i, step in enumerate(one.steps)
    )
    return (
        f"<details><summary>Numbers of {escape(one.name)} at each {one.summary['unit']}</summary>"
        '<div class="wide tall" role=group tabindex=0 aria-label="Numbers at each step, scroll">'
        "<table><caption>To four significant digits; the download has all of them</caption>"
        f"<thead><tr><th scope=col>{one.summary['unit']}<th scope=col>status{head}"
        f"<tbody>{rows}</table></div></details>"
    )


def _status(one: _Run) -> list[str]:
    if "status" not in one.dataset:
        return ["ok"] * len(one.steps)
    return [str(value) for value in one.dataset["status"].values]


def _notes(one: _Run) -> str:
    lines = [text for text in one.summary["notices"] if not text.startswith("WARNING: ")]
    for reasons in (one.summary["not_computed"], one.summary["not_applicable"]):
        lines += [f"No {name}: {why}" for name, why in reasons.items()]
    lines += [
        f"{one.summary['unit']} {error['step']} {error['status']}: {error['error']}"
        for error in one.summary["errors"]
    ]
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}" for line in lines)
    return f"<p>Notes on {escape(one.name)}:</p><ul>{items}</ul>"


def _download(one: _Run) -> str:
    """Return the link that holds a run's numbers; the page's script reads them from there too."""
    names = _stage_names(one.dataset)
    content = {
        "run": one.name,
        "task": one.summary["task"],
        "unit": one.summary["unit"],
        "verdict": one.verdict._asdict(),
        "summary": one.summary,
        "steps": one.steps,
        "status": _status(one) if one.steps else [],
        "stages": names or [""] * len(one.steps),
        "courses": [course._asdict() for course in one.courses],
        "spectrum": spectra(one.dataset) if one.steps else None,
        "tokens": one.tokens,
    }
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    file = "".join(c if c.isalnum() or c in "-_=." else "_" for c in one.name)
    return (
        f'<p><a class=data download="{escape(file)}.json" '
        f'href="data:application/json,{escape(quote(text, safe=_SAFE), quote=True)}">'
        f"Numbers of {escape(one.name)} (JSON)</a></p>"
    )


def _stage_names(dataset: xr.Dataset) -> list[str]:
    if "stage" not in dataset:
        return []
    stage = dataset["stage"]
    flags = np.atleast_1d(np.asarray(stage.attrs.get("flag_values", []))).tolist()
    words = str(stage.attrs.get("flag_meanings", "")).split()
    names = dict(zip(flags, words, strict=False))
    return [str(names.get(value, "unknown")).replace("_", " ") for value in stage.values.tolist()]


def _about(attrs: Mapping[Any, Any]) -> str:
    rows = [
        (label, str(attrs[key]))
        for label, key in (
            ("geomdiag", "geomdiag_version"),
            ("Task", "task"),
            ("Train/held-out split from", "split_source"),
            ("Notices", "notices"),
            ("Configuration", "configuration"),
        )
        if attrs.get(key)
    ]
    facts = "".join(f"<dt>{escape(label)}<dd>{escape(value)}" for label, value in rows)
    return (
        "<footer aria-labelledby=about><h2 id=about>About these numbers</h2>"
        "<p>Training is held against three stages: <em>memorisation</em> (train accuracy stays at "
        "0.99 or above), <em>symmetry acquisition</em> (the violation of the task's symmetries "
        "leaves its plateau), <em>geometric organisation</em> (symmetry has settled and the "
        f"dimension of the embedding falls). {INTERVALS} The "
        "definition of every variable is in its attributes in the result. Forecasts speak of "
        "networks like those of geomdiag's corpus, and nothing warns where yours is not. "
        "The claim that is tested: arXiv 2603.01968.</p>"
        f"<dl>{facts}</dl></footer>"
    )
