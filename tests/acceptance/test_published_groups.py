"""Published numbers of networks that learnt a group, cyclic or not, out of the ordinary command.

Chughtai, Chan & Nanda 2023 (arXiv 2302.03025) published seven networks with their own measures.
What their keys mean was found by experiment:

- ``percent_*``: shares of everything, the constants included; ours (`power`) leave these out.
  ``x_embed`` and ``y_embed`` of the MLPs are what reaches the neurons, ``unembed`` of the
  transformers is that of the neurons.
- ``logit_*_trace_similarity``: `logit_similarity`; ``logit_restricted_loss_*`` (of the
  character alone, no mean added) and ``logit_excluded_loss_*`` (train inputs): `irrep_*_loss`.
- ``total_logit_*`` and ``percent_logits_explained``: the same over their ``key_reps.txt``.
- ``hidden_excluded_loss_*``: neurons without the matrix coefficients in xy; in the MLPs, whose
  read-out is linear, our `excluded_loss` for that one block.
- ``percent_hidden_*``: shares of the centred neurons over all inputs; no variable of ours. Those
  over the cyclic group span a junk direction besides (four entries of rotation matrices, of
  which two are independent, made orthonormal).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ordinary_command import Analysed, Command

import geomdiag as gd
from geomdiag.metrics.irreps import character_losses
from geomdiag.metrics.progress import progress_losses
from geomdiag.models import snapshot

MLP = {"x_embed": "neuron_input", "y_embed": "neuron_input_right", "unembed": "unembedding"}
TRANSFORMER = {"x_embed": "embedding", "unembed": "neuron_logit"}
S5 = {"s5_5d_a": "[2,2,1]", "s5_5d_b": "[3,2]", "s5_6d": "[3,1,1]"}
A5 = {"a5_5d_a": "[3,2]", "a5_3d_a": "[3,1,1]a", "a5_3d_b": "[3,1,1]b"}
#: Published from matrices with a wrong axis of rotation.
WRONG = ("a5_3d_a", "a5_3d_b")


@dataclass(frozen=True)
class Published:
    """A published network and the names it gives to the blocks."""

    folder: str
    task: str
    split: str
    places: dict[str, str]
    names: dict[str, str]

    def label(self, irrep: str) -> str:
        """Return our label of a published irrep."""
        return self.names.get(irrep, irrep.replace("freq_", "k="))

    def summary(self, data: Path) -> dict[str, float]:
        text = (data / "group-composition" / self.folder / "summary_metrics.json").read_text()
        return dict(json.loads(text))

    def listed(self, data: Path, file: str) -> list[str]:
        return (data / "group-composition" / self.folder / file).read_text().split()

    def irreps(self, data: Path) -> list[str]:
        """Return the published irreps whose numbers are right, the trivial one apart."""
        return [n for n in self.listed(data, "irreps.txt") if n not in ("trivial", *WRONG)]


NETWORKS = [
    Published("D59_MLP_seed1", "group:D59", "torch:seed=1,fraction=0.3", MLP, {}),
    Published("S5_MLP_seed2", "group:S5", "torch:seed=2,fraction=0.4", MLP, S5),
    Published("S5_MLP_hidden_dim_64_seed1", "group:S5", "torch:seed=1,fraction=0.4", MLP, S5),
    Published("S5_T_seed1", "group:S5", "torch:seed=1,fraction=0.6", TRANSFORMER, S5),
    Published("A5_T_seed3", "group:A5", "torch:seed=3,fraction=0.6", TRANSFORMER, A5),
    Published("C113_MLP_seed1", "group:C113", "torch:seed=1,fraction=0.3", MLP, {}),
    Published("C113_T_seed1", "group:C113", "torch:seed=1,fraction=0.3", TRANSFORMER, {}),
]
BY_NAME = {network.folder: network for network in NETWORKS}
FITTED = {
    "A5_T_seed3": (1.0, 0.974),
    "S5_MLP_hidden_dim_64_seed1": (1.0, 0.003),
}


@pytest.fixture(scope="module")
def analysed(analyse: Command, real_data: Path) -> Any:
    """Return what the command gives for a network, once for all tests."""
    found: dict[str, Analysed] = {}

    def get(network: Published) -> xr.Dataset:
        if network.folder not in found:
            found[network.folder] = analyse(
                real_data / "group-composition" / network.folder, network.task,
                "--split", network.split, "--analyzers", "fit,symmetry,spectrum,progress,irreps",
            )  # fmt: skip
        done = found[network.folder]
        assert done.code == 0, done.words
        assert "DISAGREE" not in done.words
        return done.run().isel(step=-1)

    return get


@pytest.fixture(params=NETWORKS, ids=lambda network: network.folder)
def network(request: pytest.FixtureRequest) -> Published:
    chosen: Published = request.param
    return chosen


def test_losses_and_accuracies(analysed: Any, network: Published, real_data: Path) -> None:
    run, summary = analysed(network), network.summary(real_data)
    for part, key in (("all", "all_loss"), ("train", "train_loss"), ("heldout", "test_loss")):
        assert float(run["loss"].sel(part=part)) == pytest.approx(summary[key], rel=1e-3)
    train, heldout = FITTED.get(network.folder, (1.0, 1.0))
    assert float(run["accuracy"].sel(part="train")) == train
    assert float(run["accuracy"].sel(part="heldout")) == pytest.approx(heldout, abs=5e-4)
    assert float(run["accuracy"].sel(part="heldout")) == pytest.approx(
        summary["test_acc"], abs=1e-6
    )


def test_shares_of_the_irreps(analysed: Any, network: Published, real_data: Path) -> None:
    run, summary = analysed(network), network.summary(real_data)
    for key, matrix in network.places.items():
        power = run["power"].sel(matrix=matrix)
        assert float(power.sum()) == pytest.approx(1.0, abs=1e-9)
        share = 1.0 - summary[f"percent_{key}_trivial_rep"]
        for irrep in network.irreps(real_data):
            ours = share * float(power.sel(block=network.label(irrep)))
            assert ours == pytest.approx(summary[f"percent_{key}_{irrep}_rep"], abs=1e-5), irrep


def test_logits_by_irrep(analysed: Any, network: Published, real_data: Path) -> None:
    run, summary = analysed(network), network.summary(real_data)
    for irrep in network.irreps(real_data):
        own = run.sel(block=network.label(irrep))
        similarity = summary[f"logit_{irrep}_rep_trace_similarity"]
        assert float(own["logit_similarity"]) == pytest.approx(similarity, abs=1e-5)
        assert float(own["logit_power"]) == pytest.approx(similarity**2, abs=1e-5)
        for kind in ("restricted", "excluded"):
            assert float(own[f"irrep_{kind}_loss"]) == pytest.approx(
                summary[f"logit_{kind}_loss_{irrep}_rep"], rel=0.01, abs=1e-14
            ), (irrep, kind)
    strongest = run["logit_power"]
    found = {str(one) for one in strongest["block"].values[strongest.values > 0.01]}
    assert found <= {network.label(one) for one in network.listed(real_data, "key_reps.txt")}


def loaded(network: Published, real_data: Path) -> tuple[np.ndarray, np.ndarray, gd.Task]:
    """Return logits, train mask and task, through the public interface."""
    import torch

    task = gd.task(network.task)
    said = dict(part.split("=") for part in network.split.removeprefix("torch:").split(","))
    count = len(task.inputs)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(int(said["seed"])))
    train = np.zeros(count, dtype=bool)
    train[drawn[: int(float(said["fraction"]) * count)].numpy()] = True
    series = next(iter(gd.open_runs(real_data / "group-composition" / network.folder).values()))
    return np.asarray(snapshot(series[-1], task).logits), train, task


def arguments(task: gd.Task) -> tuple[dict[str, Any], dict[str, Any]]:
    group = task.logit_group
    assert group is not None
    shared = ("order", "inputs", "result", "classes", "table", "characters")
    both = {name: getattr(group, name) for name in shared}
    return both, {"left": group.left, "right": group.right}


@pytest.mark.parametrize("folder", [n.folder for n in NETWORKS if n.names is not A5])
def test_totals_over_their_key_irreps(folder: str, real_data: Path) -> None:
    """A5's totals hold the two irreps that they have wrong."""
    network = BY_NAME[folder]
    logits, train, task = loaded(network, real_data)
    summary = network.summary(real_data)
    labels = task.basis.labels
    key = [
        labels.index(network.label(irrep)) for irrep in network.listed(real_data, "key_reps.txt")
    ]
    both, operands = arguments(task)
    found = character_losses(logits, [key], train=train, **both, **operands)
    for kind, ours in (("restricted", found.restricted), ("excluded", found.excluded)):
        assert ours[0] == pytest.approx(summary[f"total_logit_{kind}_loss"], rel=0.01)
    explained = float(np.sum(found.similarity[np.array(key) - 1] ** 2))
    assert explained == pytest.approx(summary["percent_logits_explained"], abs=1e-4)


@pytest.mark.parametrize("folder", ["D59_MLP_seed1", "S5_MLP_seed2", "S5_MLP_hidden_dim_64_seed1"])
def test_neurons_without_an_irrep(folder: str, real_data: Path) -> None:
    """Their read-out is linear: neurons without an irrep give logits without it."""
    network = BY_NAME[folder]
    logits, train, task = loaded(network, real_data)
    both, _ = arguments(task)
    degrees = task.logit_group.degrees if task.logit_group is not None else None
    summary = network.summary(real_data)
    for irrep in network.irreps(real_data):
        block = task.basis.labels.index(network.label(irrep))
        found = progress_losses(logits, [block], train=train, degrees=degrees, **both)
        assert found.excluded == pytest.approx(
            summary[f"hidden_excluded_loss_{irrep}_rep"], rel=0.01
        ), irrep


def test_what_was_learnt_is_the_group(analysed: Any) -> None:
    """Those that generalised are equivariant; one memorised; one stopped half-way."""
    done = analysed(BY_NAME["S5_T_seed1"])
    assert float(done["equivariance_error"].max()) < 0.002
    assert float(done["equivariant_share"]) > 0.99
    memorised = analysed(BY_NAME["S5_MLP_hidden_dim_64_seed1"])
    assert float(memorised["equivariance_error"].min()) > 0.95
    assert float(memorised["equivariant_share"]) < 0.05
    # Right translations of the inputs nearly are translations of the answers, left ones are not.
    stopped = analysed(BY_NAME["A5_T_seed3"])["equivariance_error"]
    assert float(stopped.sel(operand="right")) == pytest.approx(0.0671, abs=5e-4)
    assert float(stopped.sel(operand="left")) == pytest.approx(0.4453, abs=5e-4)


def test_their_wrong_irreps_do_not_add_up_and_ours_do(analysed: Any, real_data: Path) -> None:
    network = BY_NAME["A5_T_seed3"]
    run, summary = analysed(network), network.summary(real_data)
    theirs = sum(
        summary[f"percent_x_embed_{irrep}_rep"] for irrep in network.listed(real_data, "irreps.txt")
    )
    assert theirs == pytest.approx(1.0174, abs=1e-4)
    assert float(run["power"].sel(matrix="embedding").sum()) == pytest.approx(1.0, abs=1e-9)


def test_no_symmetry_is_claimed_that_the_group_has_not(analysed: Any) -> None:
    run = analysed(BY_NAME["S5_T_seed1"])
    names = {str(name) for name in run["symmetry"].values}
    assert names == {"associativity", "left_translation", "right_translation"}
    assert "distance_irrelevance" not in run
    assert "block_frequency" not in run
    cyclic = analysed(BY_NAME["C113_T_seed1"])
    assert "commutativity" in cyclic["symmetry"].values
