"""The paper's claims, each with a verdict by rule and the numbers that it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from reproduction.runs import LABELS, Experiment, Run
from reproduction.stages import both, order_counts, share_words
from reproduction.statistics import median_interval
from reproduction.threshold import drawn_symmetry, separation
from reproduction.times import COVERAGE, Row, ratio_bounds
from reproduction.words import count, digits, interval_words, listed

#: Shares of runs from which "it is so" counts as confirmed, and as confirmed in part.
MOSTLY, HALF = 0.9, 0.5
#: AUROC from which a threshold counts as separating the runs of a task.
SEPARATES = 0.95


def sorted_out(rows: Sequence[Row], variants: Sequence[str]) -> dict[str, list[Row]]:
    """Return the variants with runs, by verdict."""
    found: dict[str, list[Row]] = {"faster": [], "slower": [], "cannot tell": []}
    for row in rows:
        if row.runs and row.variant in variants:
            found[row.verdict].append(row)
    return found


def told(
    results: Sequence[list[Row]], pick: Callable[[Experiment], Sequence[str]]
) -> tuple[str, str]:
    """Return verdict and evidence for "these variants are faster than the baseline"."""
    total = {"faster": 0, "slower": 0, "cannot tell": 0}
    evidence = []
    for rows in results:
        found = sorted_out(rows, pick(rows[0].experiment))
        n = sum(map(len, found.values()))
        if not n:
            continue
        for word, members in found.items():
            total[word] += len(members)
        parts = [
            f"{word}: "
            + listed(
                [f"{LABELS.get(row.variant, row.variant)} ({row.ratio_words})" for row in members]
            )
            for word, members in found.items()
            if members
        ]
        evidence.append(f"*{rows[0].experiment.title}*: {'; '.join(parts)}")
    n = sum(total.values())
    if not n:
        return "no runs", ""
    if total["faster"] == n:
        verdict = "confirmed"
    elif total["faster"] > total["slower"]:
        verdict = "confirmed in part"
    elif total["faster"]:
        verdict = "mixed"
    else:
        verdict = "contradicted" if total["slower"] else "cannot be told"
    return f"{verdict} (faster {total['faster']}, slower {total['slower']}, of {n})", ". ".join(
        evidence
    )


def strongest(results: Sequence[list[Row]]) -> tuple[str, str]:
    """Return verdict and evidence for "the best prompt shortens it more than the best prior"."""
    yes, n, evidence = 0, 0, []
    for rows in results:
        prompt = smallest_ratio(rows, rows[0].experiment.prompts)
        prior = smallest_ratio(rows, rows[0].experiment.priors)
        if prompt is None or prior is None:
            continue
        others = {run.seed: run for run in prior.runs}
        bounds = [ratio_bounds(run, others[run.seed]) for run in prompt.runs if run.seed in others]
        if not bounds:
            continue
        own = median_interval([low for low, _ in bounds], [high for _, high in bounds])
        n += 1
        yes += own.coverage >= COVERAGE and own.upper < 1
        names = [LABELS.get(row.variant, row.variant) for row in (prompt, prior)]
        words = interval_words(own, digits, "unknown").replace("> 0 ", "unknown ")
        evidence.append(
            f"*{rows[0].experiment.title}*: {names[0]} over {names[1]} {words}, "
            f"{count(len(bounds), 'pair')}"
        )
    if not n:
        return "no runs", ""
    verdict = "confirmed" if yes == n else "confirmed in part" if yes else "not confirmed"
    return f"{verdict} ({yes} of {count(n, 'experiment')})", ". ".join(evidence)


def smallest_ratio(rows: Sequence[Row], variants: Sequence[str]) -> Row | None:
    """Return the variant with the smallest median ratio to the baseline."""
    found = [
        (row.ratio.at_most, row.ratio.at_least, row.variant, row)
        for row in rows
        if row.ratio is not None and row.variant in variants
    ]
    return min(found)[3] if found else None


def grokfast_verdict(results: Sequence[list[Row]]) -> tuple[str, str]:
    """Return verdict and evidence for "what GrokFast does depends on the task"."""
    rows = [row for rows in results for row in rows if row.variant == "grokfast" and row.runs]
    if not rows:
        return "no runs", ""
    words = {row.verdict for row in rows}
    evidence = ". ".join(
        f"*{row.experiment.title}*: {row.verdict}, {row.ratio_words}" for row in rows
    )
    if {"faster", "slower"} <= words:
        return "confirmed", evidence
    return ("cannot be told" if "cannot tell" in words else "not confirmed"), evidence


def control_verdict(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return claim, verdict and evidence for the runs without weight decay."""
    found = {row.variant: row for row in rows if row.runs}
    lines = []
    claim = "Without weight decay (MLP, 80 % of the inputs) modular addition is still generalised."
    if base := found.get("baseline"):
        n = len(base.runs)
        verdict = "not confirmed" if base.generalised == 0 else "confirmed in part"
        verdict = "confirmed" if base.generalised == n else verdict
        lines.append((claim, verdict, f"{base.generalised} of {count(n)}; {base.cells()[4]}"))
    else:
        lines.append((claim, "no runs", ""))
    claim = (
        "Without weight decay, prompting commutativity and associativity cuts the time to "
        "generalise by up to two orders of magnitude."
    )
    row = found.get("consistency")
    if row is None or row.ratio is None:
        lines.append((claim, "no runs", ""))
    else:
        verdict = "shorter, but by less" if row.verdict == "faster" else "cannot be told"
        verdict = "not confirmed" if row.verdict == "slower" else verdict
        # a factor of 30 is nearer to 100 than to 10, by its logarithm
        verdict = "confirmed" if row.ratio.at_most <= 10**-1.5 else verdict
        lines.append((claim, verdict, f"ratio {row.ratio_words}, {count(row.pairs, 'pair')}"))
    return lines


def stage_verdicts(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Return claim, verdict and evidence for the three stages."""
    kept = [run for run in runs if not math.isnan(run.generalised) and not run.auxiliary]
    networks = {
        kind: [run for run in kept if run.recipe["model"]["kind"] == kind]
        for kind in sorted({run.recipe["model"]["kind"] for run in kept})
    }
    held, broken, neither = map(int, order_counts(kept))
    order = by_share(held, held + broken)
    if order == "confirmed" and held + broken < MOSTLY * len(kept):
        order = "confirmed in part"
    lines = [
        (
            "Memorisation, symmetry acquisition and geometric organisation come in this order.",
            order,
            f"of {count(len(kept))} that generalise, without a prior or prompt: held in {held}, "
            f"broken in {broken}, not to be told in {neither} ("
            + "; ".join(
                "{}: {}, {}, {}".format(kind, *order_counts(own)) for kind, own in networks.items()
            )
            + ")",
        )
    ]
    for claim, first, second in (
        ("Symmetry begins to be acquired no later than generalisation.", "symmetry", "generalised"),
        ("The embedding collapses after generalisation, not before.", "generalised", "geometry"),
    ):
        known = both(kept, first, second)
        yes = sum(one <= other for one, other in known)
        parts = [f"{kind}: {share_words(own, first, second)}" for kind, own in networks.items()]
        evidence = f"{yes} of {count(len(known))} with both times ({'; '.join(parts)})"
        lines.append((claim, by_share(yes, len(known)), evidence))
    return lines


def by_share(yes: int, n: int) -> str:
    """Return a verdict on "it is always so"."""
    if not n:
        return "no runs"
    if yes >= MOSTLY * n:
        return "confirmed"
    return "not confirmed" if yes < HALF * n else "confirmed in part"


def threshold_verdict(runs: Sequence[Run]) -> tuple[str, str]:
    """Return verdict and evidence for the soft threshold."""
    evidence, areas = [], []
    for task in sorted({run.task for run in runs}):
        own = [run for run in runs if run.task == task]
        symmetry = drawn_symmetry(task)
        one = separation(own, symmetry, "symmetry_violation mean")
        if one.enough:
            areas.append(one.auroc)
            evidence.append(f"{task} {one.words}, {len(one.solved)} runs")
    if not areas:
        return "no runs", ""
    good = sum(area >= SEPARATES for area in areas)
    verdict = (
        "confirmed" if good == len(areas) else "confirmed in part" if good else "not confirmed"
    )
    return (
        f"{verdict} (AUROC ≥ {SEPARATES} in {good} of {count(len(areas), 'task')})",
        "AUROC of the mean violation: " + "; ".join(evidence),
    )
