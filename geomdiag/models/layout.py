"""Which row of a vocabulary stands for which token, and what a network is shown.

A vocabulary holds the symbols of the task's inputs first (its p entities, then what else
inputs are written in), then at most two further tokens ("=", an operator); two vocabularies
may follow each other (one an operand).
"""

from __future__ import annotations

from dataclasses import dataclass

from geomdiag.errors import ArchitectureError
from geomdiag.models.settings import Settings
from geomdiag.tasks.contract import Task
from geomdiag.tasks.families import task as task_of
from geomdiag.tasks.sizes import fitting_tasks

__all__ = ["Sizes", "Slot", "TokenLayout", "fitting_specifications", "fitting_tokens", "plan"]

#: At most this many rows beside the task's symbols: "=" and one operator.
EXTRA = 2


@dataclass(frozen=True)
class Sizes:
    """What the shapes say.

    Attributes
    ----------
    vocabulary : int
        Rows of the token embedding (or one-hot inputs per operand).
    classes : int
        Rows of the read-out.
    context : int or None
        Rows of the positional embedding; None: there is none, or no sequence at all.
    sequence : bool
        Whether the network reads a sequence (so that "=" can be shown).
    language : bool
        Whether the vocabulary may be a tokenizer's, of which a task needs only a few entries.
    bare : bool
        Whether, where the shapes leave it open, the operands alone are likelier than operands
        with an "=" after them.
    """

    vocabulary: int
    classes: int
    context: int | None = None
    sequence: bool = False
    language: bool = False
    bare: bool = False


@dataclass(frozen=True)
class Slot:
    """One position of the sequence: an operand, or a fixed row of the vocabulary."""

    operand: int | None = None
    token: int | None = None


@dataclass(frozen=True)
class TokenLayout:
    """How a task's inputs are shown to a network.

    Attributes
    ----------
    tokens : int
        Entities p.
    offsets : tuple of int
        First row of each operand's vocabulary; an operand may be any symbol of the task.
    slots : tuple of Slot
        The sequence; the answer is read at the last position.
    """

    tokens: int
    offsets: tuple[int, ...]
    slots: tuple[Slot, ...]

    @property
    def shared(self) -> bool:
        """Whether all operands use one vocabulary."""
        return len(set(self.offsets)) == 1


def _shape_fits(sizes: Sizes, tokens: int) -> bool:
    """Tell whether `tokens` entities explain the rows of embedding and read-out."""
    if tokens < 2:
        return False
    return any(0 <= sizes.vocabulary - count * tokens <= EXTRA for count in (1, 2))


def fitting_tokens(sizes: Sizes, settings: Settings) -> tuple[int, ...]:
    """Return the numbers of entities that the sizes allow, most likely first.

    Parameters
    ----------
    sizes : Sizes
        From the shapes.
    settings : Settings
        A modulus said there goes first when the shapes allow it.

    Returns
    -------
    tuple of int
    """
    vocabulary, classes = sizes.vocabulary, sizes.classes
    likely: list[int] = []
    said = settings.integer("p", "prime", "modulus", "mod", "modulo", "C")
    if said is not None:
        likely.append(said)
    if classes < vocabulary:  # the read-out is over the answers alone
        likely.append(classes)
    elif settings.flag("diff_vocab"):
        likely.append(vocabulary // 2)
    elif not sizes.sequence or not _equals_shown(settings):
        likely.append(vocabulary)
    else:
        context = sizes.context or settings.integer("n_ctx", "seq_len", "context_length")
        unsaid = (0, 1, 2) if sizes.bare else (1, 0, 2)
        extras = {None: unsaid, 2: (0,), 3: (1, 2)}.get(context, (2, 1))
        likely += [vocabulary - extra for extra in extras]
    fits = [tokens for tokens in likely if _shape_fits(sizes, tokens)]
    return tuple(dict.fromkeys(fits))


def _equals_shown(settings: Settings) -> bool:
    """Return False when the configuration says that no "=" follows the operands."""
    if "equals_token" in settings and settings.get("equals_token") is None:
        return False
    return settings.flag("eqn_sign") is not False


def fitting_specifications(sizes: Sizes, family: str) -> tuple[str, ...]:
    """Return the task specifications that a network of these sizes fits, for messages.

    Parameters
    ----------
    sizes : Sizes
        From the shapes.
    family : str
        Its own specifications go first.

    Returns
    -------
    tuple of str
    """
    known = fitting_tasks(sizes.vocabulary, sizes.classes, family=family)
    return tuple(spec for spec in known if not _contradiction(task_of(spec), sizes))


def plan(task: Task, sizes: Sizes, settings: Settings, notices: list[str]) -> TokenLayout:
    """Return how `task` is shown to a network of these sizes.

    Parameters
    ----------
    task : Task
        Gives the number of symbols, operands and classes.
    sizes : Sizes
        From the shapes.
    settings : Settings
        ``equals_token``, ``op_token``, ``eqn_sign`` there win over the habit of the field.
    notices : list of str
        Assumptions are appended here.

    Returns
    -------
    TokenLayout

    Raises
    ------
    ArchitectureError
        If vocabulary or read-out do not fit the task; the message names the sizes and which
        tasks would.
    """
    if contradiction := _contradiction(task, sizes):
        hint = _hint(task, sizes, settings)
        if sizes.language and sizes.vocabulary > task.vocabulary + EXTRA:
            hint += (
                " If the vocabulary is a tokenizer's, say with --tokens which of its entries stand "
                "for the task's tokens: then their embedding is analysed, and no logits."
            )
        raise ArchitectureError(f"{contradiction}{hint}")
    arity, symbols = task.inputs.shape[1], task.vocabulary
    p, vocabulary, context = task.tokens, sizes.vocabulary, sizes.context
    rows = _rows(task, sizes)
    two, extra = rows > symbols, vocabulary - rows
    if settings.flag("diff_vocab") and not two:
        raise ArchitectureError(
            f"the configuration says that each operand has its own vocabulary (diff_vocab), but "
            f"the embedding has {vocabulary} rows, less than 2 x {symbols}. Check the task or the "
            "configuration."
        )
    offsets = (0, symbols) if two else (0,) * arity
    operands = tuple(Slot(operand=index) for index in range(arity))
    if not sizes.sequence:
        if extra:
            notices.append(f"the last {extra} rows of the vocabulary are used by no input")
        return TokenLayout(p, offsets, operands)
    if not extra or not _equals_shown(settings) or context == arity:
        if extra:
            notices.append(f"no '=' follows the operands: {extra} vocabulary rows are not used")
        return TokenLayout(p, offsets, operands)
    equals = settings.integer("equals_token", "eq_token", "equal_token")
    # an operator stands between two operands; inputs of more symbols name it themselves
    if extra == 1 or arity != 2 or (context is not None and context == arity + 1):
        if extra > 1 and equals is None:
            notices.append(f"two tokens beside the {rows} of the task: row {rows} is taken for '='")
        equals = rows if equals is None else equals
        slots = (*operands, Slot(token=equals))
    else:
        operator = settings.integer("op_token", "operator_token")
        if equals is None or operator is None:
            notices.append(
                f"two tokens beside the {rows} of the task: inputs are read as [a, op, b, =] with "
                f"'=' in row {rows} and the operator in row {rows + 1} (say 'equals_token' and "
                "'op_token' in the run's configuration if they are not)"
            )
        equals = rows if equals is None else equals
        operator = 2 * rows + 1 - equals if operator is None else operator
        slots = (operands[0], Slot(token=operator), *operands[1:], Slot(token=equals))
    fixed = [slot.token for slot in slots if slot.token is not None]
    outside = [token for token in fixed if not 0 <= token < vocabulary]
    taken = [token for token in fixed if 0 <= token < rows]
    if context is not None and len(slots) > context:
        raise ArchitectureError(
            f"the inputs of {task.name} fill {len(slots)} positions ({extra} tokens beside its "
            f"own), and the positional embedding has {context}. Check the task."
        )
    if outside:
        raise ArchitectureError(
            f"the configuration names token {outside[0]}, but the vocabulary has {vocabulary} rows"
        )
    if taken:
        raise ArchitectureError(
            f"the configuration gives '=' or the operator the row {taken[0]} of the vocabulary, "
            f"which is one of the {rows} that {task.name} takes for its inputs. Check the task or "
            "the configuration."
        )
    return TokenLayout(p, offsets, slots)


def _rows(task: Task, sizes: Sizes) -> int:
    """Return how many rows of the vocabulary the task's symbols take: once, or once an operand."""
    symbols = task.vocabulary
    two = task.inputs.shape[1] == 2 and sizes.vocabulary >= 2 * symbols > symbols + EXTRA
    return 2 * symbols if two else symbols


def _contradiction(task: Task, sizes: Sizes) -> str:
    """Return why a network of these sizes cannot have learnt the task, or an empty string."""
    arity, vocabulary, context = task.inputs.shape[1], sizes.vocabulary, sizes.context
    extra = vocabulary - _rows(task, sizes)
    allowed = {task.classes + further for further in range(EXTRA + 1)} | {vocabulary}
    if (
        not 0 <= extra <= EXTRA
        or sizes.classes < task.classes
        or sizes.classes not in allowed
        # Without a sequence there is no "=" to be a token and a class, and a second operand's
        # copy of the tokens is none either: the task is too small.
        or (
            not sizes.sequence
            and sizes.classes > task.classes
            and (extra or _rows(task, sizes) > task.vocabulary)
        )
    ):
        symbols = task.vocabulary - task.tokens
        return (
            f"the checkpoint does not fit {task.name}: its vocabulary has {vocabulary} rows and "
            f"its read-out {sizes.classes} classes, while the task has {task.tokens} tokens"
            + (f" with {symbols} further symbols" if symbols else "")
            + f" and {task.classes} classes."
        )
    if not sizes.sequence:
        if arity == 2 and task.vocabulary == task.tokens:
            return ""
        return (
            f"the network reads two operands at once, and an input of {task.name} is a sequence of "
            f"{arity} symbols, not all of them entities: only networks that read sequences "
            "(decoder transformers) are run on it. Give the model yourself with --model "
            "package.module:factory."
        )
    if context is not None and context < arity:
        return (
            f"the positional embedding has {context} rows, but {task.name} has inputs of {arity} "
            "operands."
        )
    if not extra and context is not None and context > arity:
        return (
            f"the network reads {context} positions, but {task.name} fills {arity} and its "
            f"{task.vocabulary} symbols leave no row of the vocabulary ({vocabulary} rows) for an "
            "'='."
        )
    return ""


def _hint(task: Task, sizes: Sizes, settings: Settings) -> str:
    """Return which tasks would fit, as the end of a message."""
    size = task.size_parameter
    fits = [tokens for tokens in fitting_tokens(sizes, settings) if tokens != task.tokens]
    if size and fits:
        hint = " or ".join(str(tokens) for tokens in fits[:2])
        return (
            f" The checkpoint would fit {size} = {hint}: check the task, or leave {size} out of it."
        )
    specs = fitting_specifications(sizes, task.family)[:3]
    hint = " or ".join(specs) or "no task that is known"
    return f" The checkpoint would fit {hint}: check the task."
