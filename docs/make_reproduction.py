"""Write docs/reproduction.md: what of arXiv 2603.01968 the runs of the corpus bear out.

Run ``python docs/make_reproduction.py`` (needs matplotlib) after fixtures/corpus changed; a test
holds the page to what this script writes. Every number is computed from the corpus, every verdict
follows from the numbers by a rule below; only the paper's own settings and claims are typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from reproduction.claims import (
    HALF,
    MOSTLY,
    SEPARATES,
    control_verdict,
    grokfast_verdict,
    stage_verdicts,
    strongest,
    threshold_verdict,
    told,
)
from reproduction.pictures import write_figures
from reproduction.runs import (
    BY_CONSTRUCTION,
    CONTROL,
    EXPERIMENTS,
    FLOOR,
    SOLVED,
    Experiment,
    Run,
    read_runs,
)
from reproduction.stages import EVENTS, sequences, stage_rows
from reproduction.threshold import (
    FEWEST,
    THRESHOLD_HEADER,
    looks_symmetric,
    tau_rows,
    threshold_rows,
    which_measure,
)
from reproduction.times import TIMES_HEADER, compare
from reproduction.words import count, listed, paragraph, table

from geomdiag.dynamics.corpus import load_corpus

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent / "fixtures" / "corpus" / "corpus.zarr.zip"


def setting_row(experiment: Experiment, runs: Sequence[Run]) -> list[str]:
    """Return what the baseline of an experiment was trained with."""
    own = [run for run in runs if run.setting == f"{experiment.sweep}+baseline"]
    if not own:
        return [experiment.title, "no runs", *[""] * 5]
    recipe = own[0].recipe
    model, training = recipe["model"], recipe["training"]
    sizes = [
        f"{key} {model[key]}"
        for key in ("d_model", "heads", "d_embed", "d_hidden", "d_mlp")
        if key in model
    ]
    return [
        f"{experiment.title} (`{own[0].task}`)",
        ", ".join([model["kind"], *sizes]),
        f"{training['train_fraction']:.0%}".replace("%", " %"),
        f"{training['weight_decay']:g}",
        f"{training['lr']:g}",
        f"{own[0].last_step:.0f}",
        str(len(own)),
    ]


#: What the paper prints (its tables 1 and section 3); where it is silent "–".
PAPER_ROWS = (
    ("paper, modular (p = 113)", "30 %", "1"),
    ("paper, graph (lattice 7×7 and others)", "80 %", "3"),
    ("paper, comparison (7×7)", "20 %", "1"),
)
PAPER_NETWORK = "transformer, d_model 128, heads 4, d_mlp 512"


def coverage_words(runs: Sequence[Run]) -> str:
    """Return in how many runs a prompt ties every held-out input to the train set."""
    pairs = {
        "associativity": "associativity",
        "consistency": "associativity",
        "translation": "translation",
        "commutativity": "commutativity",
        "reversal": "reversal",
        "automorphism": "automorphism",
        "antisymmetry": "antisymmetry",
    }
    sweeps = {experiment.sweep for experiment in (*EXPERIMENTS, CONTROL)}
    told: dict[str, list[bool]] = {}
    for run in runs:
        symmetry = pairs.get(run.variant, "")
        if run.sweep in sweeps and symmetry in run.covers_all:
            told.setdefault(run.variant, []).append(run.covers_all[symmetry])
    if not told:
        return ""
    return (
        "Runs in which the prompt's orbits tie every held-out input to some train input: "
        + listed([f"{name} {sum(found)} of {len(found)}" for name, found in sorted(told.items())])
        + "."
    )


#: Verdicts as they are listed.
ORDER = (
    "confirmed",
    "confirmed in part",
    "shorter, but by less",
    "mixed",
    "not confirmed",
    "contradicted",
    "cannot be told",
    "no runs",
)


def page(runs: Sequence[Run]) -> str:
    """Return the text of docs/reproduction.md."""
    results = [compare(experiment, runs) for experiment in EXPERIMENTS]
    control = compare(CONTROL, runs)
    compared = [row for rows in (*results, control) for row in rows if row.ratio]
    found = sorted({row.ratio.coverage for row in compared if row.ratio})
    coverages = listed([f"{one:.1%}" for one in found])
    by_chance = sum(1 - row.ratio.coverage for row in compared if row.ratio)
    outside = sum(row.verdict != "cannot tell" for row in compared)
    verdicts = [
        ("Symmetry prompts shorten the time to generalise.", *told(results, lambda e: e.prompts)),
        (
            "Geometry priors at λ = 1 (formulas ours) shorten the time to generalise.",
            *told(results, lambda e: [prior for prior in e.priors if prior.endswith("-1")]),
        ),
        (
            "Geometry priors at λ = 0.01 (formulas ours) shorten the time to generalise.",
            *told(results, lambda e: [prior for prior in e.priors if prior.endswith("-0.01")]),
        ),
        (
            "The best prompt shortens the time to generalise more than the best prior.",
            *strongest(results),
        ),
        ("What GrokFast does depends on the task.", *grokfast_verdict(results)),
        *control_verdict(control),
        *stage_verdicts(runs),
        (
            "A threshold of symmetry violation separates solved from unsolved runs.",
            *threshold_verdict(runs),
        ),
    ]
    count_by: dict[str, list[str]] = {}
    for claim, verdict, _ in verdicts:
        count_by.setdefault(verdict.partition(" (")[0], []).append(claim)
    settings = {run.setting for run in runs}
    clean = [run for run in runs if not run.random_labels]
    free = [run for run in clean if not run.prompted]
    parts = [
        "# What of the paper these runs bear out",
        paragraph(
            "This page is written by `python docs/make_reproduction.py` from "
            "`fixtures/corpus/corpus.zarr.zip`: no result or verdict in it is typed. It holds the "
            "claims of [arXiv:2603.01968](https://arxiv.org/abs/2603.01968) against "
            f"{count(len(runs))} of {count(len(settings), 'setting')} on "
            f"{count(len({run.task for run in runs}), 'task')}, trained by the "
            "[reference trainer](training.md)."
        ),
        "## Verdict",
        "\n".join(
            f"- **{word[0].upper()}{word[1:]}**: {' '.join(claims)}"
            for word, claims in sorted(count_by.items(), key=lambda one: ORDER.index(one[0]))
        ),
        paragraph(
            "Our networks and tasks are smaller than the paper's and their runs fewer (next "
            "section), so that a claim that is not confirmed here may still hold at the paper's "
            "sizes. What is *not confirmed* differs from the paper; what is *contradicted* is the "
            "other way round here. The rules: a variant is faster or slower where the interval of "
            "its ratio to the baseline leaves 1 out, and a claim on several is confirmed where all "
            f"are faster; an order is confirmed from {MOSTLY:.0%} of the runs that can tell, in "
            f"part from {HALF:.0%}; a threshold where the AUROC is {SEPARATES} in every task; the "
            "best prompt beats the best prior where the interval of their own ratio, seed by "
            "seed, leaves 1 out."
        ),
        paragraph(
            "Two cautions. The paper prints no formulas for its priors: ours, and so the scale of "
            "λ, are another thing than the paper's, and where a prior at λ = 1 keeps a network "
            "from memorising, that tells of our λ and not of the paper's claim. And that symmetry "
            "begins to be acquired before 99 % of held-out answers are right is nearly forced: the "
            "first symmetry to begin counts, and right answers are symmetric."
        ),
        table(["the paper's claim", "verdict", "evidence"], verdicts).replace("--:", ":--"),
        "## What was trained",
        table(
            ["runs", "network", "train inputs", "weight decay", "lr", "steps", "seeds"],
            [
                *(setting_row(experiment, runs) for experiment in (*EXPERIMENTS, CONTROL)),
                *(
                    [name, PAPER_NETWORK, train, decay, "–", "≤ 100000", "20"]
                    for name, train, decay in PAPER_ROWS
                ),
                ["paper, no weight decay", "MLP, 2 layers", "80 %", "0", "–", "–", "–"],
            ],
        ).replace("--:", ":--"),
        paragraph(
            "Training is full-batch AdamW. Every seed draws its own initial "
            "weights and train inputs; variants of one experiment share both, seed by seed. The "
            "MLPs have a table for each operand, so that commutativity is learnt. λ is the weight "
            "of the loss beside the cross-entropy: the paper's is 1; priors are also shown at 0.01."
        ),
        "## Time to generalise",
        paragraph(
            "*Generalised*: held-out accuracy stays at or above 0.99 to the end of the budget; the "
            "time is the first step from which it does. *Reached 0.99*: at some checkpoint, for "
            "however long. Runs that do not generalise count as later than the budget. Medians "
            "have exact intervals of order statistics (of five runs: from the fastest to the "
            "slowest; of fewer, none); "
            "ratios are paired by seed, a pair of which neither run generalised may have any "
            f"ratio. Intervals hold the median with a probability of {coverages}; "
            "*cannot tell* means that the interval of the ratio holds 1."
        ),
        paragraph(
            f"Of {count(len(compared), 'comparison')} {outside} leave 1 out; if nothing had any "
            f"effect, at most some {by_chance:.1f} would by chance."
        ),
        paragraph(
            "Prompts and priors are not a fair fight. A prompt sees all inputs, held-out ones too, "
            "without their answers, but it is told which inputs share an answer (associativity, "
            "commutativity, reversal, automorphism) or how their answers are related (translation, "
            "antisymmetry), or which inputs add up to which (triangle, transitivity). "
            "Associativity on all inputs puts all inputs of one answer in one class, and "
            "translation puts all inputs in one: a network that obeys and knows the train answers "
            "has the held-out ones. Priors and GrokFast are told nothing of the task. "
            + coverage_words(runs)
        ),
        "![Time to generalise of every run](figures/reproduction-times.svg)",
        paragraph(
            "One mark a run, a bar for the median; hollow triangles at the budget are runs that "
            "did not generalise within it."
        ),
    ]
    for rows in results:
        parts += [
            f"### {rows[0].experiment.title}",
            table(TIMES_HEADER, (row.cells() for row in rows)),
        ]
    parts += [
        "### The control without weight decay",
        paragraph(
            "Modular addition in the MLP, 80 % of the inputs, weight decay 0; ratios are to this "
            "baseline."
        ),
        table(TIMES_HEADER, (row.cells() for row in control)),
        "## The soft threshold",
        paragraph(
            "Each run's violation at its last checkpoint against whether it ends solved (held-out "
            f"accuracy at or above {SOLVED}). AUROC is the probability that a solved run has a "
            "smaller violation than an unsolved one, with a 95 % interval (Hanley and McNeil's "
            "error, Newcombe's fifth method) that takes runs as independent; seeds of one setting "
            "are alike, so the truth is less certain than it says. KL: symmetric Kullback-Leibler; "
            "JS: Jensen-Shannon; mean and max over all instances (JS: over classes). Symmetries "
            f"that a network has by construction (never above {BY_CONSTRUCTION:g} nats) are left "
            f"out, as are tasks with fewer than {FEWEST} runs on a side; violations below "
            f"{FLOOR:g} nats count as that."
        ),
        "![Final held-out accuracy over final violation](figures/reproduction-threshold.svg)",
        table(THRESHOLD_HEADER, threshold_rows(runs)),
        paragraph(
            "*One scale*: all runs that had this symmetry to learn in one list, as if one "
            "threshold served all tasks. *Pairs of one task*: only runs of one task are held "
            "against each other."
        ),
        paragraph(f"With all runs, {which_measure(runs)}. The paper plots the maximum."),
        paragraph(
            f"Without the {count(len(runs) - len(clean))} whose train answers were mostly drawn at "
            f"random, which nobody could solve: {which_measure(clean)}."
        ),
        paragraph(
            f"Without these and the {count(len(clean) - len(free))} with a prompt, whose violation "
            f"was trained: {which_measure(free)}."
        ),
        "<details><summary>Without the runs on random labels</summary>",
        table(THRESHOLD_HEADER, threshold_rows(clean)),
        "</details>",
        "<details><summary>Without runs on random labels and with prompts</summary>",
        table(THRESHOLD_HEADER, threshold_rows(free)),
        "</details>",
        "### The threshold τ",
        paragraph(
            "τ is a level of violation (symmetric KL, nats), set as [those that geomdiag ships]"
            "(forecast.md#the-soft-threshold) are, by the same code: the one with the best "
            'balanced accuracy of "below means solved" over all runs of a task, in the geometric '
            "middle of the gap. Here it is shown for each symmetry in the paper's measure; what is "
            "shipped is for each task the symmetry and measure (mean or max, KL or JS) with the "
            "least error on left-out seeds. Its accuracy is the plain one, on each seed's runs "
            "with the τ of the other seeds, beside that of always saying the commoner answer."
        ),
        table(
            [
                "task: symmetry",
                "runs",
                "τ, mean",
                "accuracy",
                "τ, max",
                "accuracy",
                "commoner answer",
                "unsolved below τ, mean",
            ],
            tau_rows(runs),
        ),
        looks_symmetric(runs),
        "## The order of the stages",
        paragraph(
            "From each run's stages (their definition: `stage_order` and `stage_boundary` in "
            "[results.md](results.md)): whether memorisation, symmetry acquisition and geometric "
            "organisation began in this order (*held*), in another (*broken*), or *neither* can be "
            "told, mostly as one was not found. The other columns count runs in which the first "
            "time is not later than the second, among those that have both, and give the median "
            "ratio of the two times with its interval. Symmetry and geometry are known at "
            "checkpoints only, "
            "which are spaced with the step's logarithm; accuracies more often."
        ),
        "![When the stages of the baseline runs began](figures/reproduction-stages.svg)",
        "Runs that generalise, without a loss beside the cross-entropy where nothing else is said:",
        table(
            (
                "sweep",
                "runs",
                "held",
                "broken",
                "neither",
                "memorised ≤ symmetry",
                "symmetry ≤ generalised",
                "generalised ≤ geometry",
                "generalised / symmetry",
                "geometry / generalised",
            ),
            stage_rows(runs, generalised=True),
        ),
        "Runs that do not; where the order holds as often, it says little about generalisation:",
        table(("sweep", "runs", "held", "broken", "neither"), stage_rows(runs, generalised=False)),
        "<details><summary>The order in every run</summary>",
        paragraph(
            listed([f"{letter}: {label}" for letter, label, _ in EVENTS])
            + "; what did not happen is left out, = joins what came at one step."
        ),
        sequences(runs),
        "</details>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the page")
    arguments = parser.parse_args()
    runs = read_runs(load_corpus(arguments.corpus))
    write_figures(runs, arguments.out / "figures")
    (arguments.out / "reproduction.md").write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
