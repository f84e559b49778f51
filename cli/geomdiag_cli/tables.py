"""How summaries read on a terminal: a block a run, or a line a run when there are many."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geomdiag_cli.console import clean

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "WARNING",
    "between",
    "count",
    "failures",
    "listed",
    "number",
    "print_note",
    "print_summaries",
    "when",
]

#: More runs than this are shown as lines of a table.
BLOCKS = 4
DISAGREE = "STORED AND RECOMPUTED VALUES DISAGREE"
#: Begins a notice that puts all numbers in doubt.
WARNING = "WARNING: "

Summary = Mapping[str, Any]


def number(value: float) -> str:
    """Return a number in three significant digits."""
    return f"{value:.3g}"


def count(amount: int, noun: str) -> str:
    """Return an amount with its noun, in the plural where it must be."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def listed(coordinates: Mapping[str, Any]) -> str:
    """Return a run's coordinates in a line: ``seed = 3, wd = 1.0``."""
    return ", ".join(f"{name} = {value}" for name, value in coordinates.items())


def print_note(
    console: Console, label: str, text: str, *, indent: int = 2, style: str = ""
) -> None:
    """Print a label and a text whose further lines stand below its first."""
    from rich.padding import Padding
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style=style)
    table.add_column(overflow="fold", style=style)
    table.add_row(f"{clean(label)}:", clean(text))
    console.print(Padding(table, (0, 0, 0, indent), expand=False))


def print_summaries(
    console: Console,
    summaries: Sequence[Summary],
    general: Sequence[str],
    *,
    reused: int = 0,
    asked: Collection[str] = (),
) -> None:
    """Print what `geomdiag.summary.summarise` returned; `asked`: diagnostics asked for by name."""
    if len(summaries) <= BLOCKS:
        for place, summary in enumerate(summaries):
            if place:
                console.print()
            _block(console, summary, asked)
    else:
        _lines(console, summaries)
    if reused:
        console.print(f"\ntaken from the earlier result: {count(reused, 'finished checkpoint')}")
    for notice in general:
        print_note(console, "notice", notice, indent=0)


def _block(console: Console, summary: Summary, asked: Collection[str]) -> None:
    from rich.table import Table

    console.print(clean(_headline(summary)), style="bold")
    for notice in summary["notices"]:  # what puts all that follows in doubt
        if notice.startswith(WARNING):
            print_note(console, "WARNING", notice.removeprefix(WARNING), style="bold red")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in _rows(summary):
        table.add_row(f"  {heading}", clean(text))
    console.print(table)
    _courses(console, summary)
    _disagreement(console, summary)
    _failures(console, summary)
    told = [error["error"] for error in summary["errors"]]
    for notice in summary["notices"]:
        if not notice.startswith(WARNING) and not any(error in notice for error in told):
            print_note(console, "notice", notice, style="yellow")
    told_off = {name: why for name, why in summary["not_applicable"].items() if name in asked}
    if absent := {**summary["not_computed"], **told_off}:
        console.print("  not computed:")
        for name, reason in absent.items():
            print_note(console, name, reason, indent=4)


def _headline(summary: Summary) -> str:
    text = f"{summary['run']}: {summary['task']}, {count(summary['checkpoints'], 'checkpoint')}"
    if summary["steps"]:
        first, last = summary["steps"]
        one, many = f", {summary['unit']} {first}", f", {summary['unit']}s {first} to {last}"
        text += one if first == last else many
    return text


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if summary["coordinates"]:
        rows.append(("coordinates", listed(summary["coordinates"])))
    accuracy = summary["accuracy"]
    names = {"train": "train", "heldout": "held-out", "all": "all inputs"}
    known = [part for part in ("train", "heldout") if part in accuracy] or list(accuracy)
    if known:
        shown = ", ".join(f"{names[part]} {accuracy[part]:.4f}" for part in known)
        rows.append(("accuracy at the end", shown))
    if accuracy or "fit" not in summary["not_computed"]:
        rows += _stages(summary)
    else:  # the network itself was not run, so that none of them can be told
        rows.append(("stage, forecast", "unknown: they need the network's outputs"))
    if summary["compared"] and not summary["disagreement"]:
        agree = f"all {summary['compared']} losses and accuracies agree within 1%"
        rows.append(("recorded values", agree))
    if (key := summary["key_blocks"]) is not None:
        found = ", ".join(key["blocks"])
        share = f"{key['share']:.1%} of the embedding's power"
        heading = _key_heading([summary])
        told = f"{found} ({share})" if found else "none stands out"
        if found and key["generates"] is False:
            told += "; they do not generate the group: some tokens share their place"
        rows.append((heading, told))
    return rows


def _stages(summary: Summary) -> list[tuple[str, str]]:
    """Return what the course of the outputs tells of the run."""
    rows: list[tuple[str, str]] = []
    bounds = summary["boundaries"]
    for heading, name in (("memorised at", "t_memorised"), ("generalised at", "t_generalised")):
        if name in bounds:
            rows.append((heading, when(bounds[name])))
    if _step(summary, "t_solved") is not None:
        rows.append(("first 100 % at", str(_step(summary, "t_solved"))))
    for heading, name in (("symmetry from", "t_symmetry"), ("geometry from", "t_geometry")):
        if _step(summary, name) is not None:
            rows.append((heading, when(bounds[name])))
    stage = summary["stage"].replace("_", " ")
    settled = _step(summary, "t_acquired")
    if summary["stage"] == "symmetry_acquisition" and settled is not None:
        stage += f" (settled at {settled}; geometry does not organise)"
    rows.append(("stage at the end", stage))
    if summary["stage_order_probability"] is not None:
        rows.append(("order of stages", summary["stage_order"]))
    if summary["threshold"] and "t_symmetry" in bounds:
        rows.append(("symmetry threshold", summary["threshold"]))
    if summary["forecast"]:
        rows.append(("forecast", summary["forecast"]))
    return rows


def _key_heading(summaries: Sequence[Summary]) -> str:
    """Return what to call the key blocks: not every task's are frequencies."""
    known = [key["frequencies"] for one in summaries if (key := one["key_blocks"]) is not None]
    return "key frequencies" if all(known) else "key blocks"


def _courses(console: Console, summary: Summary) -> None:
    """Print what changes over the run: where it began, its peak, where it ended."""
    from rich.table import Table

    courses = {
        f"{name} violation, nats": (number, value)
        for name, value in summary["symmetry_violation"].items()
    }
    courses |= {
        f"order of {attribute}, R² left out": (number, value)
        for attribute, value in summary["order"].items()
    }
    if (additive := summary["additivity"]) is not None:
        courses["additivity"] = (number, additive)
    if (size := summary["effective_dimension"]) is not None:
        courses["effective dimension"] = (lambda value: f"{value:.4g}", size)
    if not courses:
        return
    keys = ("first", "peak", "last") if summary["checkpoints"] > 1 else ("last",)
    headings = {"first": "start", "peak": "peak", "last": "end"}
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=summary["checkpoints"] > 1
    )
    table.add_column("")
    for key in keys:
        table.add_column(headings[key], justify="right")
    table.add_column("")
    for name, (spell, value) in courses.items():
        remark = "by its architecture" if value.get("architectural") else ""
        table.add_row(f"  {clean(name)}", *(spell(value[key]) for key in keys), remark)
    console.print(table)


def _step(summary: Summary, boundary: str) -> int | None:
    found: int | None = summary["boundaries"].get(boundary, {}).get("step")
    return found


def when(boundary: Mapping[str, Any]) -> str:
    """Return a boundary's step with what qualifies it; its evidence where there is none."""
    step, first = boundary["step"], boundary["first"]
    if step is None:
        return f"– ({boundary['evidence']})" if boundary["evidence"] else "–"
    text = str(step)
    if boundary["or_earlier"]:
        text += " or earlier"
    elif boundary["interval_prob"] is not None:  # no gap between two checkpoints
        text += f" ({between(boundary)})"
    if first is not None and first < step:
        text += f" (first at {first}, then below again)"
    return text


def between(boundary: Mapping[str, Any]) -> str:
    """Return the interval of a boundary in words; a dash where there is none."""
    lower, upper = boundary["interval"]
    if upper is None:
        return "–"
    return f"to {upper}" if lower is None else f"{lower} to {upper}"


def _disagreement(console: Console, summary: Summary) -> None:
    if summary["disagreement"]:
        console.print(f"  {DISAGREE}", style="bold red")
    for text in summary["disagreement"]:
        print_note(console, "compare", text, indent=4, style="red")


def _failures(console: Console, summary: Summary) -> None:
    told = failures(summary)
    for label, text in told[:5]:
        print_note(console, label, text, style="bold red")
    if len(told) > 5:
        console.print(f"  and {len(told) - 5} more: see the variables status and error")


def failures(summary: Summary) -> list[tuple[str, str]]:
    """Return which steps failed, and why; steps in a row with the same reason are told once."""
    groups: list[list[Mapping[str, Any]]] = []
    reasons: list[str] = []
    for error in summary["errors"]:
        reason = f"{error['status']} " + re.sub(r"^([^\s:]+\.\w+: )+", "", error["error"])
        if reasons and reason == reasons[-1]:
            groups[-1].append(error)
        else:
            groups.append([error])
            reasons.append(reason)
    unit = summary["unit"]
    return [
        (
            f"{unit} {one[0]['step']} {one[0]['status']}"
            if len(one) == 1
            else f"{len(one)} {unit}s, {one[0]['step']} to {one[-1]['step']}, {one[0]['status']}",
            str(one[0]["error"]),
        )
        for one in groups
    ]


def _lines(console: Console, summaries: Sequence[Summary]) -> None:
    from rich.table import Table

    split = any("train" in one["accuracy"] or "heldout" in one["accuracy"] for one in summaries)
    parts = {"train": "train", "heldout": "held-out"} if split else {"all": "accuracy"}
    bounds = {"t_memorised": "memor.", "t_generalised": "gener."} if split else {}
    fits = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    fits.add_column("run", overflow="fold", min_width=12)
    for heading in ("ckpts", "steps", *parts.values(), *bounds.values(), "stage"):
        left = heading in ("steps", "stage")
        fits.add_column(heading, justify="left" if left else "right", overflow="fold")
    for one in summaries:
        first, last = one["steps"] or ("–", "–")
        accuracy = one["accuracy"]
        fits.add_row(
            clean(one["run"]),
            str(one["checkpoints"]),
            str(first) if first == last else f"{first}…{last}",
            *(f"{accuracy[part]:.3f}" if part in accuracy else "–" for part in parts),
            *("–" if (at := _step(one, name)) is None else str(at) for name in bounds),
            one["stage"].replace("_", " "),
        )
    console.print(fits)
    console.print()
    shapes = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shapes.add_column("run", overflow="fold", min_width=12)
    for heading in (_key_heading(summaries), "violation, nats", "eff. dim."):
        shapes.add_column(heading, overflow="fold")
    for one in summaries:
        key, size = one["key_blocks"], one["effective_dimension"]
        course = one["checkpoints"] > 1
        violations = [
            f"{name[:6]}. " + f"{number(value['peak'])}→" * course + number(value["last"])
            for name, value in one["symmetry_violation"].items()
        ]
        shapes.add_row(
            clean(one["run"]),
            clean(", ".join(key["blocks"])) if key and key["blocks"] else "–",
            clean("\n".join(violations), keep="\n") or "–",
            f"{size['peak']:.4g}→" * course + f"{size['last']:.4g}" if size else "–",
        )
    console.print(shapes)
    for one in summaries:
        if one["disagreement"] or one["errors"]:
            console.print(f"\n{clean(one['run'])}", style="bold red")
        _disagreement(console, one)
        _failures(console, one)
    _shared_notices(console, summaries)


def _shared_notices(console: Console, summaries: Sequence[Summary]) -> None:
    """Print every notice once, with the runs it concerns."""
    runs: dict[str, list[str]] = {}
    for one in summaries:
        for notice in one["notices"]:
            runs.setdefault(notice, []).append(one["run"])
    for notice, names in runs.items():
        whose = names[0] if len(names) == 1 else count(len(names), "run")
        print_note(console, f"notice ({whose})", notice, indent=0, style="yellow")
