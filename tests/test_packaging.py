"""What is installed: the wheel's files, the declared and the pinned dependencies, the commands that pages name."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import cirilla_cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"bs4": "beautifulsoup4", "yaml": "PyYAML", "tokenizers": "tokenizers", "reasoning_gym": "reasoning-gym"}
"""Distribution of a module that is not called like it."""
THROUGH = {
    "httpx": "ollama", "annotated_types": "pydantic", "pydantic_core": "pydantic", "megablocks": "kernels",
    "urllib3": "requests",
}  # fmt: skip
"""Modules that come with a declared package, whose interface they are part of."""
VERBS = {
    "run",
    "init",
    "runs",
    "plan",
    "sweep",
    "report",
    "scrape",
    "synth",
    "curate",
    "tokenize",
    "pretrain",
    "sft",
    "dpo",
    "eval",
    "generate",
    "push",
    "recipe",
    "trace",
    "why",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_all_that_runs_need(wheel: Path) -> None:
    package = wheel / "cirilla_cli"
    for name in (
        "py.typed",
        "synth/phrases.txt",
        "recipe/builtin/quickstart/wiki.xml",
        "recipe/builtin/base/pretrain.yaml",
    ):
        assert (package / name).is_file(), name
    ours = {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*") if path.is_file()}
    assert {
        path.relative_to(package / "recipe/builtin")
        for path in (package / "recipe/builtin").rglob("*")
        if path.is_file()
    } == ours
    modules = {path.relative_to(ROOT) for path in (ROOT / "cirilla_cli").rglob("*.py")}
    assert {path.relative_to(wheel) for path in wheel.rglob("*.py")} == modules


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    assert {path.name.partition("-")[0] for path in wheel.iterdir()} == {"cirilla_cli"}
    assert not [path for path in wheel.rglob("*") if path.name.startswith(".") or path.suffix in (".pyc", ".db")]
    assert "entry_points.txt" in {path.name for path in wheel.glob("*.dist-info/*")}
    assert list(wheel.glob("*.dist-info/licenses/LICENSE"))


def listed(package: Path, elsewhere: Path) -> list[dict[str, str]]:
    """`recipe list --json` by the package in ``package``, from a folder that is neither."""
    run = "import cirilla_cli, sys; sys.stderr.write(cirilla_cli.__file__)\n"
    run += "sys.argv = ['cirilla', 'recipe', 'list', '--json']\n"
    run += "from cirilla_cli.cli.app import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, "-c", run], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.stderr == str(package / "cirilla_cli/__init__.py")
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


def test_the_built_in_recipes_are_the_same_from_a_checkout_and_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    here, there = listed(ROOT, tmp_path), listed(wheel, tmp_path)
    assert [{**row, "path": ""} for row in here] == [{**row, "path": ""} for row in there]
    for one, other in zip(here, there, strict=True):
        assert one["path"].startswith(str(ROOT / "recipes"))
        assert other["path"].startswith(str(wheel / "cirilla_cli/recipe/builtin"))
        assert Path(one["path"]).read_bytes() == Path(other["path"]).read_bytes()


def test_the_quickstart_scrapes_its_wiki_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    words = ["-m", "cirilla_cli", "scrape", "quickstart", "--out", "-", "-q"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 60


def requirements(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    found = (Requirement(line) for line in lines)
    return {canonicalize_name(one.name): one for one in found if one.name != PROJECT["name"]}


def imported() -> dict[str, str]:
    """Top-level modules of others that are imported anywhere in the package, and a place where."""
    found = {}
    for path in (ROOT / "cirilla_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {name.partition(".")[0]: f"{path.relative_to(ROOT)}:{node.lineno}" for name in names}  # type: ignore[attr-defined]
    return {
        name: place for name, place in found.items() if name not in sys.stdlib_module_names and name != "cirilla_cli"
    }


def test_everything_imported_is_declared() -> None:
    declared = requirements(*PROJECT["optional-dependencies"])
    for module, place in imported().items():
        name = THROUGH.get(module, MODULES.get(module, module))
        assert canonicalize_name(name) in declared, f"{module} ({place}) is not declared"


def test_what_is_declared_only_as_an_extra_is_imported_inside_functions() -> None:
    base = requirements()
    for path in (ROOT / "cirilla_cli").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "level", 0) == 0:
                name = (node.names[0].name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
                if name not in sys.stdlib_module_names and name != "cirilla_cli":
                    distribution = THROUGH.get(name, MODULES.get(name, name))
                    assert canonicalize_name(distribution) in base, f"{path.relative_to(ROOT)}:{node.lineno}: {name}"


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.partition("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(sign == "==" for _, sign, _ in found), "a constraint is a pin"
    return {canonicalize_name(name): Version(version) for name, _, version in found}


def test_the_constraints_pin_every_declared_dependency_within_its_bounds() -> None:
    pinned = pins()
    for name, requirement in requirements(*PROJECT["optional-dependencies"]).items():
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: pinned to {pinned[name]}"
    assert "hatchling" in pinned


def test_the_version_is_written_once_more_and_the_same() -> None:
    assert PROJECT["version"] == cirilla_cli.__version__
    assert cirilla_cli.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_program_is_named_where_it_stands() -> None:
    module, _, function = PROJECT["scripts"]["cirilla"].partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert f"def {function}(" in Path(spec.origin).read_text(encoding="utf-8")


def commands() -> list[tuple[str, str]]:
    """Every `cirilla WORD` in the pages and recipes, with the place."""
    pages = [
        ROOT / "README.md",
        ROOT / "Dockerfile",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "recipes").rglob("*.yaml")),
    ]
    found = []
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            # A call in a code span or block, after a shell sign, or of the image of the same name.
            for match in re.finditer(r"(?:^\s*|`|&& |\| |; |\$ )cirilla ([a-z]+)((?: [^`|;&]*)?)", line):
                found.append((f"{page.relative_to(ROOT)}:{number}", f"{match[1]}{match[2]}"))
    return found


def flags() -> dict[str, set[str]]:
    """The flags of each verb, from the program itself; of `recipe`, those of all its parts."""
    from typer.main import get_command

    from cirilla_cli.cli.app import program

    group: Any = get_command(program())
    found = {}
    for verb, command in group.commands.items():
        parts = list(command.commands.values()) if verb == "recipe" else [command]
        found[verb] = {flag for part in parts for param in part.params for flag in param.opts} | {"--help"}
    return found


def test_every_command_and_flag_that_a_page_names_exists() -> None:
    known, found = flags(), commands()
    assert set(known) == VERBS
    assert ("run", "quickstart") in [tuple(words.split()[:2]) for _, words in found]
    for place, words in found:
        verb, *rest = words.split()
        assert verb in known, f"{place}: cirilla {words}"
        for flag in (word.partition("=")[0] for word in rest if re.fullmatch(r"--[a-z][a-z-]+(=.*)?", word)):
            assert flag in known[verb], f"{place}: cirilla {words}"


def test_extras_named_in_messages_exist() -> None:
    for path in (ROOT / "cirilla_cli").rglob("*.py"):
        for extra in re.findall(r'missing_extra\("[^"]+", "([^"]+)"\)', path.read_text(encoding="utf-8")):
            assert extra in PROJECT["optional-dependencies"], f"{path.name}: {extra}"
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "cirilla_cli/cli").glob("*.py"))
    for text in (*_texts(), *sources):
        for extra in re.findall(r"cirilla-cli\[([a-z,]+)\]", text):
            assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), extra


def _texts() -> list[str]:
    return [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Dockerfile", "CHANGELOG.md")]
