"""`cirilla plan`: what a training recipe takes of memory, compute, time and disk, before anything is run."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirilla_cli.cli.options import Json
from cirilla_cli.cli.recipes import Name, Overrides, Verb, split_name

if TYPE_CHECKING:
    from cirilla_cli.engine.run import Target

_TRAINED = ("pretrain", "sft", "dpo")


def plan(
    name: Name,
    overrides: Overrides = None,
    verb: Verb = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="[NAME:]SIZE", help="What it is to fit: 16GiB (a card), cpu:8GiB, cuda, cpu."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="FLOPS", help="FLOP/s that training reaches there, such as 60e12.")
    ] = None,
    vocab: Annotated[
        int | None, typer.Option("--vocab", metavar="N", help="Ids of the tokenizer, where the recipe leaves it open.")
    ] = None,
    json_: Json = False,
) -> None:
    """What a training recipe takes: parameters, FLOPs, memory by component, time, disk; nothing is run."""
    from cirilla_cli.cli.execute import job_of
    from cirilla_cli.cli.render import show_json
    from cirilla_cli.engine.run import forecast
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.recipe.load import load_recipe

    recipe, known = split_name(name, verb)
    target = None if device is None else _target(device)
    if rate is not None and not 0 < rate < math.inf:
        said = "above 0" if rate <= 0 else "a finite number"
        raise CirillaError(f"`--rate` is {rate:g}: must be {said}", hint="--rate 60e12")
    resolved = load_recipe(recipe, known, overrides=overrides or ())
    if resolved.verb not in _TRAINED:
        raise CirillaError(
            f"{resolved.path}: a recipe for `cirilla {resolved.verb}`, which trains no model",
            hint="plan takes recipes for pretrain, sft and dpo",
        )
    found = forecast(job_of(resolved), vocab=vocab, target=target, rate=rate)
    if json_:
        show_json({"recipe": str(resolved.path), "verb": resolved.verb, **found})
    else:
        print("\n".join(_lines(found)))


def _target(text: str) -> "Target":
    """``16GiB``, ``cpu:8GiB``, ``cuda`` or ``cpu``; a size alone is that of a card.

    Raises:
        CirillaError: it is none of these.
    """
    from cirilla_cli.engine.run import Target
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.units import parse_bytes

    head, _, size = (
        text.rpartition(":") if ":" in text else (text, "", "") if text in ("cpu", "cuda") else ("", "", text)
    )
    kind = head or "cuda"
    try:
        memory = parse_bytes(size) if size else None
        fine = not text.endswith(":") and (memory is None or memory > 0)
    except ValueError:
        fine = False
    if not fine or (kind != "cpu" and kind != "cuda"):
        raise CirillaError(
            f"`--device` is {text!r}: a size, a name (cpu, cuda), or both are expected",
            hint="--device 16GiB, or --device cpu:8GiB",
        )
    return Target("cpu" if kind == "cpu" else "cuda", memory)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield from _model_lines(found)
    yield from _memory_lines(found)
    yield from _run_lines(found)
    yield from (f"unknown     {line}" for line in found["unknown"])


def _model_lines(found: dict[str, Any]) -> Iterator[str]:
    from cirilla_cli.units import show_bytes, show_count

    active = found["active_parameters"]
    share = "" if active == found["parameters"] else f", {show_count(active)} of them active for one token"
    yield f"model       {found['kind']} of {show_count(found['parameters'])} parameters{share}"
    rows = f"rows of {show_count(found['context_length'])} tokens"
    yield f"            vocabulary {show_count(found['vocab_size'])}, {rows}"
    weights = found["weights_bytes"]
    yield f"weights     {show_bytes(weights['float32'])} in float32, {show_bytes(weights['bfloat16'])} in bfloat16"
    if found["cache_bytes"] is not None:
        yield f"cache       {show_bytes(found['cache_bytes'])} for one row while generating, in bfloat16"


def _memory_lines(found: dict[str, Any]) -> Iterator[str]:
    from cirilla_cli.units import show_bytes, show_count

    yield f"memory      {show_bytes(found['peak_bytes'])} at the peak of a step on {found['device']}"
    for part, size in sorted(found["memory"].items(), key=lambda item: -item[1]):
        if size:
            yield f"            {show_bytes(size):>9}  {part}"
    if found["micro_batch_why"] is not None:
        yield f"passes      {show_count(found['micro_batch_tokens'])} tokens: {found['micro_batch_why']}"
    if found["fits"] is None:
        return
    yield f"fits        {'yes' if found['fits'] else 'no'}: there are {show_bytes(found['device_bytes'])}"
    if found["change"]:
        change = found["change"]
        words = " ".join(f"{key}={value}" for key, value in change["settings"].items())
        size, longer = show_bytes(change["peak_bytes"]), f"{change['slower']:.2f} times as long"
        yield f"            with {words} it does: {size}, {longer}"
    elif not found["fits"]:
        yield "            no saver of memory makes it fit (docs/memory.md); a smaller model may"


def _run_lines(found: dict[str, Any]) -> Iterator[str]:
    from cirilla_cli.units import show_bytes, show_count, show_seconds

    forward, backward = found["forward_flops_per_token"], found["backward_flops_per_token"]
    yield f"compute     {show_count(round(forward))} FLOPs a token forward, {show_count(round(backward))} backward"
    if found["train_flops"] is not None:
        yield f"            {found['train_flops']:.3g} FLOPs for {show_count(found['tokens'])} tokens"
        cut = f"{show_count(found['tokens_per_step'])} tokens in {found['micro_batches']} forward passes"
        yield f"steps       {found['steps']} of {cut}"
    if found["seconds"] is not None:
        rate = f"{show_count(found['tokens_per_second'])} tokens/s, {show_count(found['rate'])} FLOP/s"
        yield f"time        {show_seconds(found['seconds'])} at {rate} ({found['rate_source']})"
    elif found["rate"] is None:
        yield f"time        {found['rate_source']}"
    kept = f"{found['checkpoints']} checkpoints of {show_bytes(found['checkpoint_bytes'])}"
    short = "" if found["disk_bytes"] <= found["free_bytes"] else ": not enough"
    wanted, free = show_bytes(found["disk_bytes"]), show_bytes(found["free_bytes"])
    yield f"disk        {wanted} for up to {kept}; {free} free{short}"


COMMANDS = {"plan": plan}
