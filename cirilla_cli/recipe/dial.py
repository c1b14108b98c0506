"""A recipe whose model is a dial, laid over everything that follows from it."""

from collections.abc import Sequence

from pydantic import ValidationError

from cirilla_cli.recipe.merge import merge
from cirilla_cli.recipe.tree import Node, Origin, tree


def with_dial(root: Node) -> Node:
    """The recipe with its model, batch, length and learning rate derived; a faulty dial stays to be complained of.

    What the recipe says itself wins over what is derived.
    """
    model = root.get("model")
    kind = model.get("kind") if model else None
    if model is None or kind is None or kind.value != "dial":
        return root
    # Only here: few recipes have a dial, and all are checked fast.
    from cirilla_cli.model.config import DialConfig
    from cirilla_cli.model.dial import derivation

    try:
        dial, shown = DialConfig.model_validate(model.plain()), Node({}, model.origin)
    except ValidationError:
        # The mistake is told where the dial stands; what would have followed from it is not missing besides.
        dial, shown = DialConfig(depth=1), model
    derived = Node({})
    for key, value, why in derivation(dial):
        if shown is not model or not key.startswith("model."):
            derived = merge(derived, _nested(key.split("."), tree(value, Origin(reason=why))))
    return merge(derived, Node({**root.value, "model": shown}, root.origin))


def _nested(path: Sequence[str], leaf: Node) -> Node:
    """Mappings around a leaf, one for each part of its path."""
    for part in reversed(path):
        leaf = Node({part: leaf}, leaf.origin)
    return leaf
