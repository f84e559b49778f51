"""What a forward pass may do that no weight shows: constant factors, computed positions.

Only the configuration tells of them, in names that differ from project to project. A network
whose configuration asks for one is not run as if it did not.
"""

from __future__ import annotations

from geomdiag.errors import ArchitectureError
from geomdiag.models.settings import Settings

__all__ = ["refuse_factors", "refuse_positions"]

_FACTORS_TEXT = (
    "embedding_multiplier residual_multiplier attention_multiplier logits_scaling logit_scale "
    "logits_scale output_multiplier residual_scale scale_depth scale_emb emb_scale scale_embed "
    "embed_scale scale_embedding scale_embeddings embedding_scale scale_embedding_by_sqrt_dim "
    "scale_by_sqrt_dim normalize_embedding normalize_embeddings normalise_embeddings"
)
#: Factors on embeddings (√d in the first transformer and in Gemma), branches and logits.
_FACTORS = tuple(_FACTORS_TEXT.split())
#: Bounds that logits or scores are bent to.
_CAPS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_softcap", "softcap")
_KINDS_TEXT = (
    "positional_embedding_type position_embedding_type positional_embedding position_embedding "
    "positional_encoding position_encoding positional_encoding_type pos_embedding "
    "pos_embedding_type pos_encoding pos_encoding_type pos_emb pos_emb_type pos_embed pos_enc "
    "pos_type pe_type"
)
#: Settings that name a kind of positions.
_KINDS = tuple(_KINDS_TEXT.split())
#: Settings that switch a kind on, and how it is called.
_SWITCHES = {
    "sinusoidal": "sinusoidal",
    "use_sinusoidal": "sinusoidal",
    "sinusoidal_pos_embds": "sinusoidal",
    "sinusoidal_positions": "sinusoidal",
    "sinusoidal_embedding": "sinusoidal",
    "alibi": "alibi",
    "use_alibi": "alibi",
}
#: How the names of kinds begin that are computed, so that no tensor shows them.
_COMPUTED = ("sin", "fourier", "cos", "alibi", "relative", "rel_", "t5")
_TURNED = ("rot", "rope")
_OWN = "Give the model yourself with --model package.module:factory."


def refuse_factors(settings: Settings) -> None:
    """Raise if the configuration asks for a factor or bound that leaves no trace in weights.

    Parameters
    ----------
    settings : Settings
        The run's configuration.

    Raises
    ------
    ArchitectureError
        If there is one that is not 1, or off.
    """
    for names, harmless in ((_FACTORS, (1.0,)), (_CAPS, (0.0, -1.0))):
        for name in names:
            number, off = settings.number(name), settings.flag(name) is False
            if settings.word(name) in (None, "none", "null") or (off and not number):
                continue
            if number not in harmless:
                raise ArchitectureError(
                    f"the configuration says {name} = {settings.get(name)}, which changes the "
                    "forward pass and leaves no trace in the weights; networks are run only "
                    f"without. {_OWN}"
                )


def refuse_positions(
    settings: Settings, notices: list[str], *, table: str = "", rotary: bool = False
) -> None:
    """Raise if the configuration asks for positions that are computed and not stored.

    Parameters
    ----------
    settings : Settings
        The run's configuration.
    notices : list of str
        Grows by a word where a stored table is taken for the computed one.
    table : str
        Name of the stored table of positions; empty where there is none.
    rotary : bool
        Whether the network is run with rotary positions.

    Raises
    ------
    ArchitectureError
        If they are sinusoidal, relative or the like and no table is stored, or if they are
        rotary and the network is run without.
    """
    found = {name: settings.get(name) for name in _KINDS}
    said = {name: kind.strip().lower() for name, kind in found.items() if isinstance(kind, str)}
    said |= {name: kind for name, kind in _SWITCHES.items() if settings.flag(name)}
    for name, kind in said.items():
        turned = kind.startswith(_TURNED)
        if not (turned and not rotary) and not kind.startswith(_COMPUTED):
            continue
        if table and kind.startswith(("sin", "fourier", "cos")):
            notices.append(
                f"the configuration says {name} = {kind}: the stored table {table!r} is taken for "
                "these positions, and nothing is added to it"
            )
            continue
        those = f"the table {table!r}" if table else "rotary ones" if rotary else "none"
        raise ArchitectureError(
            f"the configuration says {name} = {kind}: such positions are computed and leave no "
            f"trace in the weights; of positions the network would be run with {those}. {_OWN}"
        )
