"""What the forward pass of a decoder transformer needs beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.language_model_names import model_type
from geomdiag.models.architectures.decoder.names import Naming
from geomdiag.models.architectures.decoder.weights import Rotary
from geomdiag.models.recognition import Fit
from geomdiag.models.settings import POOL_SETTINGS, Settings
from geomdiag.models.traceless import refuse_factors, refuse_positions

__all__ = ["Options", "read_options"]

#: No task is shown as more positions: a window of attention that holds them hides none.
LONGEST = 8
#: What a configuration calls the kind of normalisation, and how its kinds begin.
_NORM_SETTINGS = ("normalization_type", "norm_type")
_NORM_WORDS = {"ln": ("ln", "layer"), "rms": ("rms",)}
_OTHER_POOLS = ("mean", "avg", "average", "max", "first", "cls", "flatten", "concat")
_OWN = "Give the model yourself with --model package.module:factory."


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the forward pass needs beside the weights.

    Attributes
    ----------
    activation : str
        Name in `settings.ACTIVATIONS`.
    heads : int
        Number of heads.
    norm : str
        Kind of normalisation, lower case: ``ln``, ``rms``, ``lnpre``, ``rmspre``, or an empty
        string when neither configuration nor convention names one.
    norm_final : str
        The same of the last one.
    eps : float
        Added to the variance by normalisations.
    coefficient, causal, parallel, rotary
        See `TransformerWeights`.
    score_scale : float or None
        See `Block`.
    scale_by_layer : bool
        Whether the scores of block i are divided by i + 1 besides.
    """

    activation: str
    heads: int
    norm: str
    norm_final: str
    eps: float
    coefficient: float
    causal: bool
    parallel: bool = False
    rotary: Rotary | None = None
    score_scale: float | None = None
    scale_by_layer: bool = False


def read_options(naming: Naming, fit: Fit, settings: Settings, notices: list[str]) -> Options:
    """Read from the configuration what the weights do not say.

    Parameters
    ----------
    naming : Naming
        Gives the defaults.
    fit : Fit
        Gives the sizes.
    settings : Settings
        The run's configuration.
    notices : list of str
        Assumptions are appended here.

    Returns
    -------
    Options

    Raises
    ------
    ArchitectureError
        If the configuration asks for something this architecture cannot do, or does not say
        what cannot be guessed.
    """
    refuse_factors(settings)  # of Granite, too, whose tensors have Llama's names
    _refuse_unknown(naming, settings)
    _refuse_other_blocks(naming, settings)
    coefficient = settings.number("attn_coeff")
    if coefficient is None and naming.orientation == "nanda" and fit.dims.get("n") == 2:
        notices.append(
            "the attention is taken as ordinary softmax: pizza studies mix in a constant, which "
            "only their configuration says ('attn_coeff')"
        )
    heads = _heads(naming, fit, settings, notices)
    width = fit.dims["e"] if "h" in fit.dims else fit.dims["a"] // heads
    norm = _norm(naming, fit, settings, notices)
    rotary = _rotary(naming, width, settings, notices)
    refuse_positions(
        settings, notices, table=fit.roles.get("positions", ""), rotary=rotary is not None
    )
    if rotary is None and "positions" not in fit.roles:
        notices.append(
            "no table of positions is stored: none is added (a sinusoidal one would leave no trace)"
        )
    causal = settings.causal()
    if causal is None and fit.blocks > 1 and _homemade(naming):
        notices.append("the attention is taken to be causal, as no configuration says ('causal')")
    return Options(
        activation=settings.activation(naming.activation, notices)
        if "w_in_0" in fit.roles
        else "identity",
        heads=heads,
        norm=norm,
        norm_final=norm.replace("ln", "rms") if settings.flag("final_rms") else norm,
        eps=_epsilon(naming, settings, notices),
        coefficient=1.0 if coefficient is None else coefficient,
        # the code that mixes in a constant stores a mask and never applies it
        causal=coefficient is None and causal is not False,
        parallel=_parallel(naming, settings),
        rotary=rotary,
        score_scale=_score_scale(settings),
        scale_by_layer=bool(settings.flag("scale_attn_by_inverse_layer_idx")),
    )


def _refuse_unknown(naming: Naming, settings: Settings) -> None:
    """Raise if the configuration asks for what the one form cannot do."""
    no, none = ("false",), ("-1.0", "-1", "0", "0.0")
    wanted: dict[str, tuple[str, ...]] = {
        "attn_scores_soft_cap": none,
        "output_logits_soft_cap": none,
        "use_local_attn": no,
        "use_ntk_by_parts_rope": no,
        "add_cross_attention": no,
    }
    if naming.orientation == "lens":
        wanted["positional_embedding_type"] = ("standard", "rotary")
    elif naming.orientation == "nanda":
        wanted |= {
            "positional_embedding_type": ("standard",),
            "gated_mlp": no,
            "parallel_attn_mlp": no,
        }
    for name, known in wanted.items():
        if (said := settings.word(name)) not in (None, *known):
            only = "none" if known is none else " and ".join(known)
            raise ArchitectureError(
                f"the configuration says {name} = {said}; decoder_transformer only knows {only}. "
                f"{_OWN}"
            )
    if not naming.model_types:
        return
    kind = model_type(settings)
    if kind is not None and kind not in naming.model_types:
        raise ArchitectureError(
            f"the configuration says model_type = {kind}; the tensors have the names of "
            f"{naming.convention.name}, which decoder_transformer runs as "
            f"{', '.join(naming.model_types)} only. {_OWN}"
        )
    window = settings.integer("sliding_window")
    if window is not None and window < LONGEST and settings.flag("use_sliding_window") is not False:
        raise ArchitectureError(
            f"the configuration says sliding_window = {window}; decoder_transformer only knows "
            f"windows of {LONGEST} positions or more, which hide none. {_OWN}"
        )


def _refuse_other_blocks(naming: Naming, settings: Settings) -> None:
    """Raise if a configuration that is not Hugging Face's describes other blocks than these."""
    if model_type(settings) is not None:
        return
    norm = settings.word(*_NORM_SETTINGS)
    asked: dict[str, object] = {}
    if settings.pre_norm() is False:
        asked["norm_first"] = False
    if (pool := settings.word(*POOL_SETTINGS)) in _OTHER_POOLS:
        asked["pool"] = pool
    if naming.norm and norm is not None and not norm.startswith(_NORM_WORDS[naming.norm]):
        asked["normalization_type"] = norm
    places = settings.word("positional_embedding_type")
    if naming.rotary and (False in (settings.flag("rope"), settings.flag("use_rope"))):
        asked["use_rope"] = False
    elif naming.model_types and places not in (None, "rotary" if naming.rotary else "standard"):
        asked["positional_embedding_type"] = places
    for name, said in asked.items():
        raise ArchitectureError(
            f"the configuration says {name} = {said}; with tensors named as these "
            f"({naming.convention.name}) decoder_transformer only knows "
            f"{'rotary' if naming.rotary else 'learned'} positions, normalisations "
            f"{f'({naming.norm}) ' if naming.norm else ''}before attention and MLP, and an answer "
            f"at the last position. {_OWN}"
        )


def _homemade(naming: Naming) -> bool:
    """Tell whether names and matrices are those that anybody may choose for a network."""
    return naming.orientation == "linear" and not naming.model_types


def _norm(naming: Naming, fit: Fit, settings: Settings, notices: list[str]) -> str:
    said = None if naming.model_types else settings.word(*_NORM_SETTINGS)
    gains = [part for part in fit.roles if part.startswith("norm_") and "_gain" in part]
    if gains and _homemade(naming) and settings.pre_norm() is None:
        notices.append(
            "the normalisations are taken to stand before attention and MLP, as no configuration "
            "says ('norm_first')"
        )
    bare = any(part.replace("_gain", "_offset") not in fit.roles for part in gains)
    if bare and said is None and not naming.norm and naming.orientation != "lens":
        notices.append(
            "normalisations with a gain and no offset are taken for RMSNorm, not LayerNorm (say "
            "'normalization_type' in the run's config.json)"
        )
    weights = any(part.startswith("norm_") for part in fit.roles)
    if naming.orientation == "lens" and not weights and "normalization_type" not in settings:
        notices.append(
            "no normalisation has weights and no configuration names one: none is assumed "
            "(TransformerLens' LNPre and RMSPre have no weights; say 'normalization_type' in the "
            "run's config.json)"
        )
    return said or naming.norm


def _epsilon(naming: Naming, settings: Settings, notices: list[str]) -> float:
    names = ["layer_norm_eps", "ln_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"]
    # a bare "eps" is the optimiser's unless it stands in a TransformerLens configuration
    if "normalization_type" in settings:
        names.append("eps")
    said = settings.number(*names)
    if said is None and naming.norm == "rms" and model_type(settings) is None:
        notices.append(
            f"no configuration says what RMSNorm adds to the mean square: {naming.eps:g} assumed "
            "(say it as 'rms_norm_eps' in the run's config.json)"
        )
    return naming.eps if said is None else said


def _heads(naming: Naming, fit: Fit, settings: Settings, notices: list[str]) -> int:
    if "h" in fit.dims:
        if fit.dims["h"] % fit.dims.get("k", 1):
            raise ArchitectureError(
                f"{fit.dims['h']} heads of queries cannot share {fit.dims['k']} of keys and values"
            )
        return fit.dims["h"]
    width, shared = fit.dims["a"], fit.dims.get("kv", fit.dims["a"])
    heads = settings.integer(
        "num_attention_heads", "n_heads", "num_heads", "nheads", "n_head", "heads"
    )
    if heads is None and naming.model_types:
        raise ArchitectureError(
            "the number of heads is not in the weights and no configuration says it: put a "
            "config.json with 'num_attention_heads' (or 'n_heads') beside the checkpoints"
        )
    if heads is None:
        heads = 4 if width % 4 == 0 else 1
        notices.append(
            f"the number of heads is not in the weights and no configuration says it: {heads} "
            "assumed (say it as 'n_heads' in the run's config.json)"
        )
    if heads < 1 or width % heads:
        raise ArchitectureError(
            f"the configuration says {heads} heads, which do not divide an attention {width} wide"
        )
    size = width // heads
    said = settings.integer("head_dim", "d_head")
    if naming.model_types and said not in (None, size):
        raise ArchitectureError(
            f"the configuration says {heads} heads of head_dim = {said}, but an attention "
            f"{width} wide gives heads of {size}"
        )
    if shared % size or heads % (shared // size):
        raise ArchitectureError(
            f"the configuration says {heads} heads, {size} wide each; keys and values {shared} "
            "wide are not shared by them evenly. Check that it belongs to the checkpoint."
        )
    if fit.dims.get("e", size) != size:
        raise ArchitectureError(
            f"the configuration says {heads} heads, {size} wide each; their normalisation has "
            f"{fit.dims['e']} weights. Check that it belongs to the checkpoint."
        )
    return heads


def _parallel(naming: Naming, settings: Settings) -> bool:
    said = settings.flag("use_parallel_residual", "parallel_attn_mlp")
    return naming.parallel if said is None else said


def _score_scale(settings: Settings) -> float | None:
    if False in (settings.flag("use_attn_scale"), settings.flag("scale_attn_weights")):
        return 1.0
    said = settings.number("attn_scale")  # TransformerLens divides by it; -1: by the root of e
    return 1.0 / said if said is not None and said > 0 else None


def _rotary(naming: Naming, head: int, settings: Settings, notices: list[str]) -> Rotary | None:
    """Return rotary positions that turn heads `head` wide, or None."""
    if naming.orientation == "lens":
        if settings.word("positional_embedding_type") != "rotary":
            return None
        width = settings.integer("rotary_dim") or head
        adjacent = bool(settings.flag("rotary_adjacent_pairs"))
    elif naming.rotary:
        share = settings.number("partial_rotary_factor", "rotary_pct")
        if share not in (None, 1.0) and naming.rotary_share == 1.0:
            raise ArchitectureError(
                f"the configuration says partial_rotary_factor = {share}; for the names of "
                f"{naming.convention.name} decoder_transformer only knows 1. {_OWN}"
            )
        width = int(head * (naming.rotary_share if share is None else share))
        adjacent = naming.rotary == "adjacent"
    else:
        return None
    _refuse_scaled_rotary(settings)
    if not 0 < width <= head or width % 2:
        raise ArchitectureError(
            f"the configuration turns {width} axes of heads {head} wide by rotary positions; an "
            "even number is needed, at most all. Check that it belongs to the checkpoint."
        )
    base = settings.number("rope_theta", "rotary_emb_base", "rotary_base", "rope_base")
    told = model_type(settings) or settings.word("positional_embedding_type")
    if base is None and told is None:
        notices.append(
            "rotary positions with base 10000 are assumed: no configuration says otherwise (say "
            "it as 'rope_theta' in the run's config.json)"
        )
    return Rotary(base or 10_000.0, width, adjacent)


def _refuse_scaled_rotary(settings: Settings) -> None:
    for name in ("rope_scaling", "rope_parameters"):
        section = settings.section(name)
        kind = section.get("rope_type", section.get("type", "default"))
        nested = next((key for key, value in section.items() if isinstance(value, Mapping)), None)
        if nested is not None or kind not in ("default", None):
            said = f"{name}.{nested}" if nested is not None else f"{name} of type {kind!r}"
            raise ArchitectureError(
                f"the configuration says {said}; decoder_transformer only knows rotary positions "
                f"of the default type. {_OWN}"
            )
