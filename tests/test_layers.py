"""Imports point down: every file against the table in docs/architecture.md, and what must stay free of what."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cirilla_cli"
BASE = {"errors", "config", "units", "fs", "held", "progress", "__version__"}
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One import in one file: its dotted name, and whether it happens when the file itself is imported."""

    name: str
    line: int
    at_import: bool


def imports(tree: ast.AST, at_import: bool = True) -> Iterator[Import]:
    """Every import below ``tree``; function bodies and `if TYPE_CHECKING:` do not run at import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, at_import) for alias in node.names)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            later |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            yield from imports(node, at_import and not later)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def area(path: Path) -> str:
    """The folder below the package, or the module's own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def table() -> dict[str, list[tuple[str, set[str]]]]:
    """For each area what it may import under which condition: "" always, "inside" function bodies, or from one file."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.M)
    return {name: [condition(part) for part in cell.split(";")] for name, cell in rows}


def condition(part: str) -> tuple[str, set[str]]:
    head, _, tail = part.rpartition(":")
    names = set(re.findall(r"`([\w.]+)`", tail))
    if "inside function bodies" in head:
        return "inside", names
    return "".join(re.findall(r"from `([\w/.]+)` alone", head)), names


def allowed(path: Path, found: Import, rules: dict[str, list[tuple[str, set[str]]]]) -> bool:
    """Whether the table lets a file import a name of this package."""
    target = found.name.removeprefix("cirilla_cli.").split(".")
    own = area(path)
    if target[0] == own or target[0] in BASE:
        return True
    file = path.relative_to(PACKAGE / own).as_posix() if path.parent != PACKAGE else path.name
    holds: dict[str, Callable[[], bool]] = {"": lambda: True, "inside": lambda: not found.at_import}
    names = set().union(*(n for when, n in rules[own] if holds.get(when, lambda w=when: w == file)()))
    return target[0] in names or ".".join(target[:2]) in names


def violations(path: Path, source: str) -> list[str]:
    rules = table()
    return [
        f"{path.relative_to(ROOT)}:{found.line}: imports {found.name}"
        for found in imports(ast.parse(source))
        if found.name.startswith("cirilla_cli") and not allowed(path, found, rules)
    ]


def test_every_file_keeps_to_the_table() -> None:
    assert [said for path in FILES for said in violations(path, path.read_text(encoding="utf-8"))] == []


def test_the_table_names_every_area_and_nothing_else() -> None:
    areas = {area(path) for path in FILES}
    rules = table()
    assert rules.keys() == areas
    named = {name for row in rules.values() for _, names in row for name in names}
    assert {name.split(".")[0] for name in named} <= areas
    dotted = [name for name in named if "." in name]
    places = {name: PACKAGE / name.replace(".", "/") for name in dotted}
    assert [name for name, place in places.items() if not (place.is_dir() or place.with_suffix(".py").is_file())] == []


def test_no_two_areas_import_each_other() -> None:
    """Following the table itself: nobody is above and below the same area."""
    below = {name: {n.split(".")[0] for when, names in row if not when for n in names} for name, row in table().items()}
    reached = {name: set(names) for name, names in below.items()}
    for _ in below:
        reached = {name: names | {far for near in names for far in reached[near]} for name, names in reached.items()}
    # A config.py is torch-free wherever it stands, so that recipe may know them all.
    assert [name for name, names in reached.items() if name in names] == []


LIES = [
    ("model/block.py", "from cirilla_cli.data.shards import TokenShards", True),
    ("data/shards.py", "import cirilla_cli.model.decoder", True),
    ("engine/run.py", "from cirilla_cli.infer.run import generate", True),
    ("engine/hooks.py", "from cirilla_cli.infer.run import generate", False),
    ("engine/objectives/hooks.py", "from cirilla_cli.infer.run import generate", True),
    ("recipe/load.py", "from cirilla_cli.data.jsonl import read_rows", True),
    ("recipe/load.py", "def f():\n    from cirilla_cli.data.jsonl import read_rows", True),
    ("cli/verbs.py", "from cirilla_cli.engine.run import train", True),
    ("cli/verbs.py", "def f():\n    from cirilla_cli.engine.run import train", False),
    ("cli/verbs.py", "def f():\n    from cirilla_cli.engine.trainer import Trainer", True),
    ("hub/read.py", "from cirilla_cli import loading", True),
    ("teachers/own.py", "def f():\n    from cirilla_cli.infer.run import generate", False),
    ("teachers/ollama.py", "def f():\n    from cirilla_cli.infer.run import generate", True),
    ("checkpoint.py", "from cirilla_cli.engine.step import step_counts", True),
]


@pytest.mark.parametrize(("file", "source", "is_lie"), LIES)
def test_a_file_that_reaches_up_is_caught(file: str, source: str, is_lie: bool) -> None:
    assert bool(violations(PACKAGE / file, source)) is is_lie


# What must stay free of what

IO_NAMES = {"print", "open", "input", "exec", "eval", "breakpoint"}
IO_MODULES = {
    "os", "sys", "io", "logging", "pathlib", "shutil", "tempfile", "subprocess", "socket", "urllib", "requests", "json",
    "pickle", "warnings", "time", "rich", "importlib",
}  # fmt: skip
IO_ATTRIBUTES = {"save", "load", "environ", "getenv", "read_text", "write_text", "set_num_threads", "manual_seed"}


def input_output(tree: ast.AST) -> list[str]:
    """What in ``tree`` speaks to the world outside."""
    found = [f"{i.line}: import {i.name}" for i in imports(tree) if i.name.split(".")[0] in IO_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in IO_NAMES:
            found.append(f"{node.lineno}: {node.id}")
        if isinstance(node, ast.Attribute) and node.attr in IO_ATTRIBUTES and not is_generator(node):
            found.append(f"{node.lineno}: .{node.attr}")
    return found


def is_generator(node: ast.Attribute) -> bool:
    """`torch.Generator().manual_seed` seeds an object of the caller's; `torch.manual_seed` the whole process."""
    return "Generator" in ast.unparse(node.value)


@pytest.mark.parametrize("path", [p for p in FILES if area(p) == "model"], ids=lambda p: p.name)
def test_the_model_library_does_no_input_or_output(path: Path) -> None:
    assert input_output(parsed(path)) == []


@pytest.mark.parametrize(
    "source", ["print(1)", "import os", "from pathlib import Path", "torch.save(x)", "torch.manual_seed(0)"]
)
def test_input_and_output_are_caught(source: str) -> None:
    assert input_output(ast.parse(source))


def modules_reached(path: Path, *, at_import: bool) -> set[str]:
    """Top-level names that a file imports, itself and through the files of this package that it imports."""
    seen: set[Path] = set()
    names: set[str] = set()
    todo = [path]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for found in imports(parsed(file)):
            if at_import and not found.at_import:
                continue
            names.add(found.name.split(".")[0])
            if found.name.startswith("cirilla_cli."):
                todo += [f for f in files_of(found.name) if f not in seen]
    return names


def files_of(name: str) -> list[Path]:
    """The files that importing a dotted name runs: of every package on the way, and of the module."""
    steps = [Path(*name.split(".")[: n + 1]) for n in range(len(name.split(".")))]
    found = [f for step in steps for f in (ROOT / step / "__init__.py", ROOT / step.with_suffix(".py"))]
    return [f for f in found if f.is_file()]


TORCH_FREE = ("scrape", "synth", "teachers", "verify", "recipe", "lineage", "cli")


@pytest.mark.parametrize("path", [p for p in FILES if area(p) in TORCH_FREE], ids=lambda p: f"{area(p)}/{p.name}")
def test_torch_is_not_imported_where_data_is_made(path: Path) -> None:
    assert "torch" not in modules_reached(path, at_import=True)
    if area(path) not in ("cli", "synth"):  # synth may ask our own checkpoints, cli runs everything
        assert "torch" not in {i.name.split(".")[0] for i in imports(parsed(path))}


HEAVY = {"torch", "numpy", "yaml", "rich", "requests", "transformers", "datasets", "matplotlib", "sentencepiece"}


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "config.py"], ids=lambda p: f"{area(p)}/{p.name}")
def test_sections_are_light(path: Path) -> None:
    """Also through what they import: a recipe is checked in milliseconds."""
    assert modules_reached(path, at_import=True) & HEAVY == set()


def test_data_imports_torch_only_where_batches_are_made() -> None:
    found = {
        p.name for p in FILES if area(p) == "data" and "torch" in {i.name.split(".")[0] for i in imports(parsed(p))}
    }
    assert found == {"batches.py", "labelled_batches.py", "masked.py"}


def test_nothing_unpickles_or_evaluates() -> None:
    """No pickle is ever loaded, nothing that anybody wrote becomes code."""
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = []
    for path in FILES:
        tree = parsed(path)
        found += [f"{path.name}:{i.line}: {i.name}" for i in imports(tree) if i.name.split(".")[0] in banned]
        found += [
            f"{path.name}:{node.lineno}: {ast.unparse(node.func)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"eval", "exec", "torch.load", "os.system", "compile"}
        ]
    assert found == []
