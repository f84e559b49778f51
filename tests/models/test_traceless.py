"""What a configuration asks for and no weight shows: such networks are not run as if it did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import reference_language_models
import reference_networks
import reference_sequences
import torch
from helpers.stored import stored
from reference_networks import Case

from geomdiag import models
from geomdiag.errors import ArchitectureError, MissingPartError
from geomdiag.models.settings import Settings
from geomdiag.models.traceless import refuse_factors, refuse_positions
from geomdiag.tasks import task

TRANSFORMERS = {"decoder_transformer", "stacked_transformer"}
#: One of each convention; the pizza program's own word for its kinds settles what it does.
CASES = [
    case
    for case in (
        *reference_networks.CASES,
        *reference_language_models.CASES,
        *reference_sequences.CASES,
    )
    if case.architecture in {*TRANSFORMERS, "recurrent", "embedding_mlp"}
    and "pizza" not in case.name
]
#: Where transformers is installed it is asked next, and knows the model's type but not these sizes.
ELSE = "the configuration describes a model of type"


def logits(case: Case, config: Mapping[str, Any]) -> np.ndarray:
    state = {name: value.to(torch.float64).numpy() for name, value in case.state().items()}
    seen = models.snapshot(
        stored(state), task("modadd", p=case.p), config={**case.config, **config}
    )
    values: np.ndarray = seen.logits
    return values


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_factor_that_is_not_run_is_refused(case: Case) -> None:
    for said in ({"embed_scale": 8}, {"model": {"scale_embedding": True}}):
        with pytest.raises((ArchitectureError, MissingPartError), match=f"leaves no trace|{ELSE}"):
            logits(case, said)
    # transformers says these of any model
    harmless = {"embed_scale": 1.0, "scale_embedding": False, "softcap": None}
    np.testing.assert_array_equal(logits(case, harmless), logits(case, {}))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.architecture in TRANSFORMERS],
    ids=lambda case: case.name,
)
def test_computed_positions_are_refused_where_no_table_is_stored(case: Case) -> None:
    for said in ({"pos_encoding": "alibi"}, {"use_alibi": True}):
        with pytest.raises((ArchitectureError, MissingPartError), match=f"alibi|ALiBi|{ELSE}"):
            logits(case, said)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"scale_embedding": True}, True),
        ({"scale_embedding": "true"}, True),
        ({"embed_scale": 22.6}, True),
        ({"final_logit_softcapping": 30.0}, True),
        ({"logits_scaling": "8"}, True),
        ({"scale_embedding": False, "embed_scale": 1, "softcap": -1, "logit_softcap": 0}, False),
        ({"final_logit_softcapping": None, "embed_scale": "none"}, False),
        ({"embed_init_scale": 0.02, "scale": 3}, False),
        ({}, False),
    ],
)
def test_which_settings_are_factors(said: dict[str, Any], refused: bool) -> None:
    if not refused:
        return refuse_factors(Settings(said))
    with pytest.raises(ArchitectureError, match=f"says {next(iter(said))} = .*--model"):
        refuse_factors(Settings(said))
    return None


@pytest.mark.parametrize(
    ("said", "how", "outcome"),
    [
        ({"pos_enc": "sinusoidal"}, {}, "refused"),
        ({"sinusoidal": True}, {}, "refused"),
        ({"sinusoidal": False}, {}, ""),
        ({"pos_enc": "sinusoidal"}, {"table": "pos"}, "told"),
        ({"pos_enc": "alibi"}, {"table": "pos"}, "refused"),
        ({"pos_enc": "sinusoidal"}, {"rotary": True}, "refused"),
        ({"pos_emb": "rope"}, {"rotary": True}, ""),
        ({"pos_emb": "rope"}, {"table": "pos"}, "refused"),
        ({"pos_emb": "learned"}, {"table": "pos"}, ""),
        ({"pos_emb": "absolute"}, {}, ""),
        ({"pos_emb": True}, {}, ""),
        ({"position_embedding_type": None}, {}, ""),
    ],
)
def test_which_settings_are_computed_positions(
    said: dict[str, Any], how: dict[str, Any], outcome: str
) -> None:
    notices: list[str] = []
    if outcome == "refused":
        with pytest.raises(ArchitectureError, match="computed and leave no trace"):
            refuse_positions(Settings(said), notices, **how)
    else:
        refuse_positions(Settings(said), notices, **how)
    assert len(notices) == (outcome == "told")
