"""A recipe whose model is a dial, laid over everything that follows from it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cirilla_cli.recipe.merge import merge
from cirilla_cli.recipe.tree import Node, Origin, tree

if TYPE_CHECKING:
    from cirilla_cli.model.config import DialConfig


def with_dial(root: Node) -> Node:
    """The recipe with its model, batch, length and learning rate derived; one with no dial, or a faulty one, as it is.

    What the recipe says itself wins over what is derived.
    """
    model = root.get("model")
    kind = model.get("kind") if model else None
    if model is None or kind is None or kind.value != "dial":
        return root
    # Only here: few recipes have a dial, and all are checked fast.
    from cirilla_cli.model.config import DialConfig

    try:
        return laid_under(root, DialConfig.model_validate(model.plain()))
    except ValidationError:
        return root


def laid_under(
    root: Node, dial: "DialConfig", why: str = "the dial itself", length: tuple[int, str] | None = None
) -> Node:
    """The recipe over what follows from a dial; ``why`` it is set so, and a ``length`` other than the dial's own."""
    from cirilla_cli.model.dial import derivation

    derived = Node({})
    for key, value, reason in derivation(dial, length):
        reason = why if key == "model.n_layers" else reason
        derived = merge(derived, _nested(key.split("."), tree(value, Origin(reason=reason))))
    model = root.get("model")
    return merge(
        derived, Node({**root.value, "model": Node({}, root.origin if model is None else model.origin)}, root.origin)
    )


def _nested(path: Sequence[str], leaf: Node) -> Node:
    """Mappings around a leaf, one for each part of its path."""
    for part in reversed(path):
        leaf = Node({part: leaf}, leaf.origin)
    return leaf
