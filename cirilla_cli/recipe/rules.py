"""Rules between keys that no section can judge by itself."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cirilla_cli.recipe.near import nearest
from cirilla_cli.recipe.tree import Complaint, Node

_REFERENCE = re.compile(r"\{([A-Za-z0-9_.-]+)\}")


def pipeline_mistakes(root: Node) -> list[Complaint]:
    """Stages that wait for, or take the output of, a stage that does not stand above them."""
    mistakes: list[Complaint] = []
    stages = root.get("stages")
    names = list(stages.value) if stages is not None else []
    for i, name in enumerate(names):
        stage = root.at(("stages", name))
        if stage is None:
            continue
        for key, node, text in _references(stage):
            # A stage may name its own folder in its values, but not wait for itself.
            if text not in names[: i + (key != "after")]:
                dotted = f"stages.{name}.{key}"
                mistakes.append(Complaint(node.origin, _wrong(dotted, text, names, i), dotted, text, "a stage above"))
    return mistakes


def _wrong(dotted: str, text: str, names: list[str], at: int) -> str:
    if text in names:
        return f"`{dotted}` names `{text}`, which does not come before `{names[at]}`; move it up"
    near = nearest(text, names[:at])
    remedy = f"did you mean `{near}`?" if near else f"stages above: {', '.join(names[:at]) or 'none'}"
    return f"`{dotted}` names `{text}`, which is no stage; {remedy}"


def _references(stage: Node) -> Iterator[tuple[str, Node, str]]:
    """Every mention of another stage: where, and its name."""
    after = stage.get("after")
    if after is not None:
        for node in after.value if isinstance(after.value, list) else [after]:
            yield "after", node, node.value
    given = stage.get("with")
    if given is not None:
        for key, node in given.value.items():
            yield from (
                (f"with.{key}", node, name) for text in _texts(node.plain()) for name in _REFERENCE.findall(text)
            )


def _texts(value: Any) -> Iterator[str]:
    """Every string in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def notes(data: Mapping[str, Any]) -> list[str]:
    """What is right but worth knowing of a checked recipe's values."""
    train, model = data.get("train"), data.get("model")
    if not isinstance(train, Mapping) or not isinstance(model, Mapping):
        return []
    balance = (model.get("mlp") or {}).get("balance") or {}
    micro, whole = train.get("micro_batch_tokens"), train.get("batch_tokens")
    if balance.get("kind") == "batch" and micro is not None and (micro == "auto" or micro < whole):
        return [
            "`model.mlp.balance` of kind batch is a product of means over a micro-batch: with "
            f"`train.micro_batch_tokens` {micro} the gradient is not that of whole steps of {whole}; kind sequence is"
        ]
    return []
