"""Networks that TransformerLens itself made, with every option that it and geomdiag both know.

Needs TransformerLens 2 (checked with 2.18.0), the last with ``HookedTransformer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stored import stored

from geomdiag import models
from geomdiag.checkpoints import open_runs
from geomdiag.errors import ArchitectureError
from geomdiag.tasks import task

ADD = task("modadd:p=7")
SIZES = {
    "d_model": 16,
    "n_ctx": 3,
    "d_head": 4,
    "n_heads": 4,
    "d_vocab": 8,
    "act_fn": "relu",
    "d_mlp": 20,
    "normalization_type": "LN",
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "no-norm": {"normalization_type": None},
    "ln": {},
    "ln-without-weights": {"normalization_type": "LNPre"},
    "rms": {"normalization_type": "RMS"},
    "rms-without-weights": {"normalization_type": "RMSPre"},
    "last-rms": {"final_rms": True},
    "last-rms-without-weights": {"normalization_type": "LNPre", "final_rms": True},
    "eps": {"eps": 0.3},
    "rotary": {"positional_embedding_type": "rotary"},
    "rotary-of-neighbours": {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": True,
        "rotary_base": 50,
    },
    "rotary-in-part": {"positional_embedding_type": "rotary", "rotary_dim": 2},
    "gated": {"gated_mlp": True, "act_fn": "silu"},
    "shared-keys": {
        "normalization_type": "RMS",
        "n_key_value_heads": 2,
        "gated_mlp": True,
        "act_fn": "gelu_new",
        "positional_embedding_type": "rotary",
    },
    "parallel": {"parallel_attn_mlp": True},
    "attention-only": {"attn_only": True},
    "unscaled": {"use_attn_scale": False},
    "other-scale": {"attn_scale": 7.0},
    "scaled-by-layer": {"scale_attn_by_inverse_layer_idx": True},
    "both-directions": {"attention_dir": "bidirectional"},
    "fewer-classes": {"d_vocab_out": 7},
}


def made(layers: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return a random network and its configuration, as its users store it."""
    lens = pytest.importorskip("transformer_lens")
    if not hasattr(lens, "HookedTransformer"):
        pytest.skip("TransformerLens 2 is needed")
    settings = lens.HookedTransformerConfig(n_layers=layers, seed=0, **{**SIZES, **options})
    model = lens.HookedTransformer(settings).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            if parameter.ndim == 1:
                parameter += 1
    kinds = (int, float, str, type(None))
    return model, {
        name: value for name, value in settings.to_dict().items() if isinstance(value, kinds)
    }


def read(model: Any, config: Mapping[str, Any]) -> models.Snapshot:
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    return models.snapshot(stored(arrays), ADD, config=config)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_its_own(name: str, layers: int) -> None:
    model, config = made(layers, **OPTIONS[name])
    tokens = np.pad(ADD.inputs, ((0, 0), (0, 1)), constant_values=7)
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens))[:, -1, :7].numpy()
    seen = read(model, config)
    assert not seen.notices
    assert np.abs(seen.logits - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert seen.network is not None
    operands = [torch.from_numpy(seen.embedding[column]) for column in ADD.inputs.T]
    got = seen.network.logits_from_embeddings(operands).numpy()
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"positional_embedding_type": "shortformer"}, "only knows standard and rotary"),
        ({"attn_scores_soft_cap": 5.0}, "attn_scores_soft_cap = 5.0; .* only knows none"),
        ({"act_fn": "solu_ln"}, "no known architecture"),
    ],
)
def test_what_is_not_known_is_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        read(*made(1, **option))


def test_a_whole_model_in_a_file_brings_its_settings(tmp_path: Path) -> None:
    model, _ = made(2, normalization_type="LNPre", eps=0.3, act_fn="gelu_new")
    tokens = np.pad(ADD.inputs, ((0, 0), (0, 1)), constant_values=7)
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens))[:, -1, :7].numpy()
    torch.save(model, tmp_path / "step_9.pt")
    (series,) = open_runs(tmp_path).values()
    seen = models.snapshot(series[0], ADD, config=series.config)
    assert not seen.notices
    assert np.abs(seen.logits - wanted).max() <= 1e-5 * np.abs(wanted).max()
