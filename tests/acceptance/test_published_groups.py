"""Published models over groups: our numbering of the elements is theirs, so the losses come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import geomdiag as gd


@pytest.mark.parametrize(
    ("name", "spec", "accuracy"),
    [
        ("C113_T_seed1", "group:C113", 1.0),
        ("D59_MLP_seed1", "group:D59", 1.0),
        ("S5_MLP_seed2", "group:S5", 1.0),
        ("S5_T_seed1", "group:S5", 1.0),
        ("S5_MLP_hidden_dim_64_seed1", "group:S5", None),
        ("A5_T_seed3", "group:A5", None),
    ],
)
def test_published_losses(real_data: Path, name: str, spec: str, accuracy: float | None) -> None:
    folder = real_data / "group-composition" / name
    summary = json.loads((folder / "summary_metrics.json").read_text())
    tree = gd.analyze(folder, spec, analyzers=["fit"], workers=1)
    (run,) = (node for node in tree.subtree if "loss" in node)
    loss = float(run["loss"].sel(part="all").isel(step=-1))
    assert loss == pytest.approx(summary["all_loss"], rel=1e-3)
    if accuracy is not None:
        assert float(run["accuracy"].sel(part="all").isel(step=-1)) == accuracy
