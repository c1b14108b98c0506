"""Every key of every section of every verb, changed by one character, is refused, and the right key is suggested.

The keys come from the models' JSON Schema as pydantic writes it, not from the walk that the loader itself uses.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.load import load_recipe
from cirilla_cli.recipe.schema import VERBS, schema_for

LETTERS = "abcdefghijklmnopqrstuvwxyz_"
Where = tuple[str | int, ...]


class Maximal:
    """A recipe of one verb in which every section gives every key it has."""

    def __init__(self, verb: str, member: int) -> None:
        self.schema = schema_for(verb).model_json_schema()
        self.member = member
        """Which member of every union is taken, the last one where there are fewer."""
        self.sections: list[tuple[Where, str, list[str]]] = []
        """Where each section stands, its class, and its keys."""
        self.data = self.sample(self.schema, ())
        if "budget" in self.data and self.data["model"]["kind"] != "dial":
            # A budget goes with a dial alone, and takes any other model's place.
            del self.data["budget"]
            self.sections = [
                (at, section, [name for name in names if at or name != "budget"])
                for at, section, names in self.sections
                if at[:1] != ("budget",)
            ]

    def sample(self, part: dict[str, Any], at: Where) -> Any:
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            return self.sample({"title": name, **self.schema["$defs"][name]}, at)
        if "const" in part:
            return part["const"]
        if "enum" in part:
            return part["enum"][0]
        for union in ("oneOf", "anyOf", "allOf"):
            if union in part:
                members = [one for one in part[union] if one.get("type") != "null"]
                return self.sample(members[min(self.member, len(members) - 1)], at)
        if "properties" in part:
            self.sections.append((at, part["title"], list(part["properties"])))
            return {key: self.sample(value, (*at, key)) for key, value in part["properties"].items()}
        if isinstance(part.get("additionalProperties"), dict):
            return {"N": self.sample(part["additionalProperties"], (*at, "N"))}
        if "items" in part:
            return [self.sample(part["items"], (*at, 0))]
        return {"integer": 1, "number": 0.5, "string": "x", "boolean": True}.get(part.get("type", ""), {})


def mutations(word: str, chance: random.Random) -> Iterator[str]:
    """The word with a character dropped, swapped with the next, replaced, and inserted, at random places."""
    i = chance.randrange(len(word))
    yield word[:i] + word[i + 1 :]
    if len(word) > 1:
        j = chance.randrange(len(word) - 1)
        yield word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    for _ in range(2):
        k = chance.randrange(len(word))
        yield word[:k] + chance.choice(LETTERS) + word[k + 1 :]
        k = chance.randrange(len(word) + 1)
        yield word[:k] + chance.choice(LETTERS) + word[k:]


def renamed(data: Any, at: Where, old: str, new: str) -> Any:
    """A copy of ``data`` in which the key ``old`` of the mapping at ``at`` is called ``new``."""
    if not at:
        return {new if key == old else key: value for key, value in data.items()}
    head, *rest = at
    deeper = renamed(data[head], tuple(rest), old, new)
    if isinstance(data, list):
        return [deeper if i == head else value for i, value in enumerate(data)]
    return {key: deeper if key == head else value for key, value in data.items()}


def refusals(path: Path, verb: str, data: Any) -> list[str]:
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    try:
        load_recipe(path, verb)
    except CirillaError as error:
        return str(error).splitlines()
    return []


def shared_with_pretraining(verb: str) -> set[tuple[str, str]]:
    """Sections and keys of `sft` and `dpo` that stand in `pretrain` too, and need no second trial."""
    if verb not in {"sft", "dpo"}:
        return set()
    seen = schema_for("pretrain").model_json_schema()["$defs"]
    return {(section, key) for section, part in seen.items() for key in part["properties"]}


@pytest.mark.parametrize("verb", VERBS)
def test_a_changed_key_is_refused_and_the_right_one_suggested(verb: str, tmp_path: Path) -> None:
    chance = random.Random(f"mutations of {verb}")
    path = tmp_path / "toy.yaml"
    done = shared_with_pretraining(verb)
    right, wrong = 0, []
    for member in range(5):
        recipe = Maximal(verb, member)
        recipe.data["extends"] = []
        assert not [line for line in refusals(path, verb, recipe.data) if "not a key" in line]
        for at, section, names in recipe.sections:
            for name in names:
                if (section, name) in done:
                    continue
                done.add((section, name))
                for changed in set(mutations(name, chance)) - set(names) - {""}:
                    key = ".".join(map(str, (*at, changed)))
                    found = refusals(path, verb, renamed(recipe.data, at, name, changed))
                    about = [line for line in found if f": `{key}` is not a key here; " in line]
                    assert about, (key, found)
                    if about[0].endswith(f"did you mean `{name}`?"):
                        right += 1
                    else:
                        wrong.append(about[0])
    rate = right / (right + len(wrong))
    print(
        f"{verb}: {len(done)} keys, {right + len(wrong)} mutations, {rate:.1%} with the right suggestion; not: {wrong}"
    )
    assert right > 40
    assert rate >= 0.95, wrong


def test_a_changed_key_of_a_short_recipe_is_mostly_understood_too(tmp_path: Path, good: str) -> None:
    chance = random.Random("a short recipe")
    data = yaml.safe_load(good)
    right, wrong = 0, []
    for at in (
        (),
        ("model",),
        ("model", "mixers", "A"),
        ("model", "mlp"),
        ("data",),
        ("train",),
        ("optim",),
        ("schedule",),
    ):
        section = data
        for part in at:
            section = section[part]
        for name in section:
            for changed in {new for _ in range(4) for new in mutations(name, chance)} - set(section):
                key = ".".join((*at, changed))
                about = [
                    x for x in refusals(tmp_path / "toy.yaml", "pretrain", renamed(data, at, name, changed)) if key in x
                ]
                assert about, key
                right += about[0].endswith(f"did you mean `{name}`?")
                wrong += [] if about[0].endswith(f"did you mean `{name}`?") else [about[0]]
    print(f"{right + len(wrong)} mutations, {right / (right + len(wrong)):.1%} with the right suggestion; not: {wrong}")
    assert right / (right + len(wrong)) >= 0.95, wrong
