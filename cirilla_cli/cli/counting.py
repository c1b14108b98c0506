"""`cirilla plan`: what a training recipe's model holds, computes and remembers, before anything is run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirilla_cli.cli.options import Json
from cirilla_cli.cli.recipes import Name, Overrides, Verb, split_name

if TYPE_CHECKING:
    from cirilla_cli.model.count import Shape
    from cirilla_cli.recipe.load import Resolved

_TRAINED = ("pretrain", "sft", "dpo")


def plan(
    name: Name,
    overrides: Overrides = None,
    verb: Verb = None,
    vocab: Annotated[
        int | None, typer.Option("--vocab", metavar="N", help="Ids of the tokenizer, where the recipe leaves it open.")
    ] = None,
    json_: Json = False,
) -> None:
    """Parameters, FLOPs, cache and state of a training recipe's model, in closed form; nothing is run."""
    from cirilla_cli.cli.render import show_json
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.recipe.load import load_recipe

    recipe, known = split_name(name, verb)
    resolved = load_recipe(recipe, known, overrides=overrides or ())
    if resolved.verb not in _TRAINED:
        raise CirillaError(
            f"{resolved.path}: a recipe for `cirilla {resolved.verb}`, which trains no model",
            hint="plan takes recipes for pretrain, sft and dpo",
        )
    found = _figures(resolved, vocab)
    if json_:
        show_json({"recipe": str(resolved.path), "verb": resolved.verb, **found})
    else:
        print("\n".join(_lines(found)))


def _figures(resolved: "Resolved", vocab: int | None) -> dict[str, Any]:
    """What can be known of the recipe's model, by name."""
    from cirilla_cli.model.config import DecoderConfig
    from cirilla_cli.model.count import cache_bytes, count, forward_flops_per_token, train_flops_per_token

    shape, length = _shape(resolved, vocab)
    context, counted, tokens = shape.mean_context(length), count(shape), _tokens(resolved)
    train = train_flops_per_token(shape, context)
    return {
        "kind": resolved.data["model"]["kind"], "vocab_size": shape.vocab_size, "context_length": length,
        "parameters": counted.parameters, "active_parameters": counted.active,
        "weights_bytes": {"float32": 4 * counted.parameters, "bfloat16": 2 * counted.parameters},
        # Weights, gradients and two moments, all in float32; Muon keeps one moment of hidden matrices.
        "training_state_bytes": 16 * counted.parameters,
        "forward_flops_per_token": forward_flops_per_token(shape, context), "train_flops_per_token": train,
        "backward_flops_per_token": train - train / 3, "tokens": tokens,
        "train_flops": None if tokens is None else train * tokens,
        "cache_bytes": cache_bytes(shape, length) if isinstance(shape, DecoderConfig) else None,
    }  # fmt: skip


def _shape(resolved: "Resolved", vocab: int | None) -> tuple["Shape", int]:
    """The model with its vocabulary, and the row length.

    Raises:
        CirillaError: nothing says how many ids there are, or the checkpoint to start from cannot be read.
    """
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.model.config import CheckpointConfig

    recipe: Any = resolved.recipe
    if isinstance(recipe.model, CheckpointConfig):
        from cirilla_cli.loading import read_shape

        shape = read_shape(recipe.model.path)
        return shape, recipe.model.context_length or shape.context_length
    ids = recipe.model.vocab_size or vocab or (resolved.data.get("tokenizer") or {}).get("vocab_size")
    if ids is None:
        raise CirillaError(
            f"{resolved.path}: the vocabulary is the data's, and nothing says how large it is", hint="--vocab 32768"
        )
    return recipe.model.changed(vocab_size=ids), recipe.model.context_length


def _tokens(resolved: "Resolved") -> int | None:
    """Tokens the run reads, where the recipe says so without its data."""
    train = resolved.data["train"]
    if train["tokens"] is not None:
        return int(train["tokens"])
    return None if train["steps"] is None else int(train["steps"] * train["batch_tokens"])


def _lines(found: dict[str, Any]) -> Iterator[str]:
    from cirilla_cli.units import show_bytes, show_count

    active = found["active_parameters"]
    share = "" if active == found["parameters"] else f", {show_count(active)} of them active for one token"
    yield f"model       {found['kind']} of {show_count(found['parameters'])} parameters{share}"
    rows = f"rows of {show_count(found['context_length'])} tokens"
    yield f"            vocabulary {show_count(found['vocab_size'])}, {rows}"
    weights = found["weights_bytes"]
    yield f"weights     {show_bytes(weights['float32'])} in float32, {show_bytes(weights['bfloat16'])} in bfloat16"
    yield f"training    {show_bytes(found['training_state_bytes'])} for weights, gradients and two moments in float32"
    forward, backward = found["forward_flops_per_token"], found["backward_flops_per_token"]
    yield f"compute     {show_count(round(forward))} FLOPs a token forward, {show_count(round(backward))} backward"
    if found["train_flops"] is not None:
        yield f"            {found['train_flops']:.3g} FLOPs for {show_count(found['tokens'])} tokens"
    if found["cache_bytes"] is not None:
        yield f"cache       {show_bytes(found['cache_bytes'])} for one row while generating, in bfloat16"


COMMANDS = {"plan": plan}
