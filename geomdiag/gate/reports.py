"""What a gate found, as JSON, JUnit XML and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any
from xml.etree import ElementTree

from geomdiag.gate.verdict import FAILING, VERDICTS, Row, Verdict

__all__ = ["counts", "headline", "number", "to_dict", "to_junit", "to_markdown"]


def number(value: float) -> str:
    """Return a number in four digits, a dash where there is none."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def counts(verdict: Verdict) -> str:
    """Return how many metrics have which verdict, in words.

    Parameters
    ----------
    verdict : Verdict

    Returns
    -------
    str
    """
    found = Counter(row.verdict for row in verdict.rows)
    return ", ".join(f"{found[name]} {name}" for name in VERDICTS if found[name])


def headline(verdict: Verdict) -> str:
    """Return the outcome in one line.

    Parameters
    ----------
    verdict : Verdict

    Returns
    -------
    str
    """
    return f"geometry {'passed' if verdict.passed else 'FAILED'}: {counts(verdict)}"


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values, ready for JSON.

    Parameters
    ----------
    verdict : Verdict

    Returns
    -------
    dict
        ``passed``, ``level``, ``correction``, ``basis``, ``notices`` and ``rows``, the worst first;
        numbers that do not exist, and an excess without a tolerance, are None.
    """
    return {
        "passed": verdict.passed,
        "level": verdict.level,
        "correction": verdict.correction,
        "basis": verdict.basis,
        "notices": list(verdict.notices),
        "rows": [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in vars(row).items()
            }
            for row in verdict.rows
        ],
    }


def to_junit(verdict: Verdict) -> str:
    """Return a verdict as JUnit XML: a suite a setting, a case a metric.

    Parameters
    ----------
    verdict : Verdict

    Returns
    -------
    str
        What fails the gate is a failure; noise, and what was not compared, is skipped or told in
        the case's output.
    """
    root = ElementTree.Element("testsuites", name="geometry")
    for setting in dict.fromkeys(row.setting for row in verdict.rows):
        rows = [row for row in verdict.rows if row.setting == setting]
        failed = sum(row.verdict in FAILING for row in rows)
        skipped = sum(row.verdict in _SKIPPED for row in rows)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml(setting),
            tests=str(len(rows)),
            failures=str(failed),
            errors="0",
            skipped=str(skipped),
            time="0",
        )
        for row in rows:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"geometry.{_xml(setting)}",
                name=_xml(row.metric),
                time="0",
            )
            message = f"{row.verdict}: {_xml(row.words)}"
            if row.verdict in FAILING:
                failure = ElementTree.SubElement(case, "failure", type=row.verdict, message=message)
                failure.text = _xml(_sentence(row))
            elif row.verdict in _SKIPPED:
                ElementTree.SubElement(case, "skipped", message=message)
            else:
                ElementTree.SubElement(case, "system-out").text = f"{message}. {_sentence(row)}"
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )


_SKIPPED = ("new", "not compared")


def _sentence(row: Row) -> str:
    return (
        f"baseline {number(row.baseline)} ({row.seeds} runs), now {number(row.value)} "
        f"({row.runs} runs), worse: {row.worse}"
    )


def _xml(text: str) -> str:
    """Return a text without the characters that XML 1.0 cannot hold."""
    return "".join(
        one
        if one in "\t\n"
        or (" " <= one <= "\ud7ff")
        or ("\ue000" <= one <= "\ufffd")
        or one >= "\U00010000"
        else "\ufffd"
        for one in text
    )


def to_markdown(verdict: Verdict) -> str:
    """Return a verdict as Markdown: the outcome, a table of what matters, the rest folded away.

    Parameters
    ----------
    verdict : Verdict

    Returns
    -------
    str
    """
    calm = [row for row in verdict.rows if row.verdict == "same"]
    telling = [row for row in verdict.rows if row.verdict != "same"]
    several = len({row.setting for row in verdict.rows}) > 1
    lines = [f"### {headline(verdict)}", ""]
    if telling:
        lines += [*_table(telling, several), ""]
    if calm:
        lines += [f"<details><summary>{len(calm)} within tolerance or noise</summary>", ""]
        lines += [*_table(calm, several), "", "</details>", ""]
    lines += [f"- {_cell(notice)}" for notice in verdict.notices]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(rows: list[Row], several: bool) -> list[str]:
    first = "| setting " if several else ""
    lines = [
        first + "| metric | verdict | baseline | now | change | in spreads | p | |",
        ("| --- " if several else "") + "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = [
            *([_cell(row.setting)] if several else []),
            f"`{_cell(row.metric)}`",
            f"**{row.verdict}**" if row.verdict in FAILING else row.verdict,
            *map(number, (row.baseline, row.value, row.change, row.spreads, row.adjusted)),
            _cell(row.words),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
    return " ".join(plain.split())
