"""A recipe whose model is a dial, laid over everything that follows from it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cirilla_cli.recipe.merge import merge
from cirilla_cli.recipe.tree import Node, Origin, tree

if TYPE_CHECKING:
    from cirilla_cli.model.config import DialConfig
    from cirilla_cli.model.dial import Derived


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
        return laid_under(root, DialConfig.model_validate(model.plain()))
    except ValidationError:
        # The mistake is told where the dial stands; what would have followed from it is not missing besides.
        rest = [derived for derived in derivation(DialConfig(depth=1)) if not derived.key.startswith("model.")]
        return merge(_laid(rest), root)


def laid_under(
    root: Node, dial: "DialConfig", why: str = "the dial itself", length: tuple[int, str] | None = None
) -> Node:
    """The recipe over what follows from a dial; ``why`` it is set so, and a ``length`` other than the dial's own."""
    from cirilla_cli.model.dial import derivation

    model = root.get("model")
    said = Node({**root.value, "model": Node({}, root.origin if model is None else model.origin)}, root.origin)
    follows = derivation(dial, length)
    return merge(_laid([each._replace(why=why) if each.key == "model.n_layers" else each for each in follows]), said)


def _laid(follows: "list[Derived]") -> Node:
    """What follows as a recipe, its reasons with it."""
    laid = Node({})
    for key, value, why in follows:
        laid = merge(laid, _nested(key.split("."), tree(value, Origin(reason=why))))
    return laid


def _nested(path: Sequence[str], leaf: Node) -> Node:
    """Mappings around a leaf, one for each part of its path."""
    for part in reversed(path):
        leaf = Node({part: leaf}, leaf.origin)
    return leaf
