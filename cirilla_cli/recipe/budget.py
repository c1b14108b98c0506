"""A recipe with a budget, turned into one with a dial and a length."""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from cirilla_cli.recipe.dial import laid_under
from cirilla_cli.recipe.merge import merge
from cirilla_cli.recipe.tree import Complaint, Node, tree

if TYPE_CHECKING:
    from cirilla_cli.model.config import DialConfig

_DERIVED = ("model.depth", "train.tokens", "train.steps", "train.epochs", "train.batch_tokens", "optim.lr")


def with_budget(root: Node, mistakes: list[Complaint]) -> Node:
    """The recipe with what its budget allows in its place; one with no budget, or a faulty one, as it is."""
    budget = root.get("budget")
    if budget is None or budget.value is None:
        return root
    kind = root.at(("model", "kind"))
    if kind is not None and kind.value == "checkpoint":
        text = "`model.kind` is 'checkpoint', and `budget` is for a model that is born in this run: leave `budget` out"
        mistakes.append(Complaint(kind.origin, text, "model.kind", kind.value, "dial, or no budget"))
        return _without_budget(root)
    # Only here: few recipes have a budget, and all are checked fast.
    from cirilla_cli.model.budget import depth_of, length_of
    from cirilla_cli.model.config import BudgetConfig, DialConfig

    mistakes += _clashes(root)
    model = root.get("model")
    given = model.plain() if model is not None and _is_dial(model) else {}
    try:
        dial = DialConfig.model_validate({"kind": "dial", **(given or {}), "depth": 1})
        section = BudgetConfig.model_validate(budget.plain())
    except ValidationError:
        # The check that follows says what is wrong with them.
        return _beside(root, DialConfig(depth=1))
    chosen = depth_of(section, dial)
    if chosen is None:
        mistakes.append(_too_small(budget))
    depth, why = chosen or (1, "")
    dial = dial.model_copy(update={"depth": depth})
    return laid_under(_without_budget(root), dial, why, length_of(section, dial))


def _without_budget(root: Node) -> Node:
    return Node({key: node for key, node in root.value.items() if key != "budget"}, root.origin)


def _beside(root: Node, dial: "DialConfig") -> Node:
    """A recipe with mistakes, with what it does not have to give beside a budget."""
    model = root.get("model")
    filled = laid_under(root, dial)
    return (
        filled if model is None else Node({**filled.value, "model": merge(tree({"kind": "dial", "depth": 1}), model)})
    )


def _is_dial(model: Node) -> bool:
    kind = model.get("kind")
    return kind is None or kind.value == "dial"


def _clashes(root: Node) -> list[Complaint]:
    """Values that the budget derives, and the recipe gives too."""
    found = []
    for dotted in _DERIVED:
        node = root.at(tuple(dotted.split(".")))
        if node is not None and node.value is not None:
            text = f"`{dotted}` is {node.value!r}, and `budget` derives it: leave one of them out"
            found.append(Complaint(node.origin, text, dotted, node.value, "nothing beside a budget"))
    kind = root.at(("model", "kind"))
    if kind is not None and kind.value != "dial":
        text = f"`model.kind` is {kind.value!r}, and `budget` picks a setting of the dial: leave it out, or write dial"
        found.append(Complaint(kind.origin, text, "model.kind", kind.value, "dial"))
    return found


def _too_small(budget: Node) -> Complaint:
    small = "too small for even the smallest model, of depth 1; docs/model/dial.md says how it counts"
    text = f"`budget` is {budget.plain()}: {small}"
    return Complaint(budget.origin, text, "budget", budget.plain(), "more memory, time or tokens")
