"""The documentation says what is true: links, commands, flags, keys, file names, whole recipes, the reference.

`python tests/test_docs.py` writes the reference into docs/recipes.md anew.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from cirilla_cli.data.rows import Document, Question, Record, Sample

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BEGIN, END = "<!-- reference: begin (python tests/test_docs.py) -->", "<!-- reference: end -->"
WRONG_CALL: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises for an unknown flag or a value of the wrong type; its own name is not public."""

OTHERS = {
    "cat", "head", "tail", "pip", "pytest", "python", "ollama", "git", "docker", "grep", "jq", "cd", "export", "sbatch",
}  # fmt: skip
MACHINE = re.compile(r"(?<![\w.])(?:/(?:tmp|home|root|Users|mnt|opt|var)\b|[A-Z]:\\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def at(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    start, language, lines = 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip().startswith("```"):
            lines.append(line)
        elif start:
            yield Block(page, start, language, "\n".join(lines))
            start = 0
        else:
            start, language, lines = number, line.strip().removeprefix("```"), []
    assert not start, f"{page.name}:{start}: a block that does not end"


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
"""Every fenced block of every page."""


# Links


def slug(heading: str) -> str:
    """The anchor that a heading gets on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists():
            wrong.append(f"{page.name}: {target}")
        elif anchor and anchor not in {slug(h) for h in re.findall(r"^#+ (.+)$", prose(file), re.M)}:
            wrong.append(f"{page.name}: {target} (no such heading)")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    missing = {page.name for page in (ROOT / "docs").glob("*.md")} - linked - {"README.md", "log.md"}
    assert missing == set()


# Commands


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell block, pipes and lists taken apart, redirections left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        tokens = iter(lexer)
        for token in tokens:
            if set(token) <= set("<>"):
                next(tokens)
            elif set(token) <= set("|&;"):
                yield words
                words = []
            else:
                words.append(token)
        if words:
            yield words


SHELL = [(block, words) for block in ALL_BLOCKS if block.language in ("sh", "bash") for words in commands(block)]


def problems(words: list[str]) -> list[str]:
    """What is wrong with a call of `cirilla`: an unknown verb or flag, or a key that no recipe of the verb has."""
    from cirilla_cli.cli.app import program

    command: Any = typer.main.get_command(program())
    names, rest = [words[0]], words[1:]
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return [f"no verb `{rest[0]}`"]
        names.append(rest[0])
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        context = command.make_context(" ".join(names), list(rest), resilient_parsing="--help" in rest)
    except WRONG_CALL as error:
        return [f"{' '.join(words)}: {error}"]
    if getattr(command, "commands", None):  # a group without a verb, such as `cirilla --help`
        return []
    given = [*(context.params.get("words") or ()), *(context.params.get("overrides") or ())]
    return [said for word in given if re.match(r"[A-Za-z_][\w.\-]*=", word) if (said := wrong_key(names, words, word))]


def wrong_key(names: list[str], words: list[str], override: str) -> str:
    """What is wrong with the key of an override, empty if nothing is."""
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.recipe.explain import explain
    from cirilla_cli.recipe.schema import VERBS

    verb = names[1] if names[1] in VERBS else next((v for word in words for v in VERBS if word.endswith(f"/{v}")), None)
    try:
        explain(verb, override.partition("=")[0])
    except CirillaError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("block", "words"), SHELL, ids=lambda v: v.at if isinstance(v, Block) else " ".join(v)[:60])
def test_every_command_has_a_verb_and_flags_that_exist(block: Block, words: list[str]) -> None:
    program = next((word for word in words if not re.match(r"[A-Z_]+=", word)), "")
    if program != "cirilla":
        assert program in OTHERS, f"{block.at}: `{program}` is no known program"
        return
    assert problems(words) == [], block.at


@pytest.mark.parametrize(
    "call",
    [
        "cirilla trian quickstart",
        "cirilla sft quickstart --epochs 3",
        "cirilla sft quickstart optim.learning=1",
        "cirilla recipe chekc mine.yaml",
        "cirilla recipe show quickstart/sft --why train.stesp=5",
        "cirilla generate --max-new-tokens many",
        "cirilla synth --source fandom synth.source.phrasing=6",
    ],
)
def test_a_wrong_command_is_noticed(call: str) -> None:
    assert problems(shlex.split(call)) != []


def test_commands_were_found() -> None:
    verbs = {words[1] for _, words in SHELL if words[0] == "cirilla"}
    expected = {"run", "init", "scrape", "synth", "curate", "tokenize", "pretrain", "sft", "dpo", "eval"}
    expected |= {"generate", "push"}
    assert expected <= verbs


# Recipes and Python


@pytest.mark.parametrize("block", [b for b in ALL_BLOCKS if b.language == "yaml"], ids=lambda b: b.at)
def test_every_whole_recipe_is_good(block: Block, tmp_path: Path) -> None:
    """Blocks that begin with `recipe: 1` are whole; others are pieces, and must be YAML."""
    import yaml

    from cirilla_cli.recipe.load import load_recipe

    assert yaml.safe_load(block.text)
    if block.text.startswith("recipe: 1"):
        (tmp_path / "mine.yaml").write_text(block.text, encoding="utf-8")
        load_recipe(tmp_path / "mine.yaml")


def imported_names(block: Block) -> Iterator[str]:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cirilla_cli"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_defined(dotted: str) -> bool:
    """Whether a module, or something named at the top of one, has that dotted name."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    door = path.parent / "__init__.py"
    above = next((f for f in (path.parent.with_suffix(".py"), door) if f.is_file()), None)
    if above is None:
        return False
    # A package lists what it hands out by name.
    listed = rf'|^    "{path.name}"' if above == door else ""
    return re.search(rf"^(def |class )?{path.name}\b{listed}", above.read_text(encoding="utf-8"), re.M) is not None


def test_every_python_block_imports_what_exists() -> None:
    names = [(block.at, name) for block in ALL_BLOCKS if block.language == "python" for name in imported_names(block)]
    assert [(at, name) for at, name in names if not is_defined(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """`model/rope.py` stands below the package; names that begin with tests/ and the like at the top."""
    text = prose(page)
    tops = (ROOT, ROOT / "cirilla_cli")
    files = re.findall(r"`([\w./-]+\.(?:py|txt))`", text)
    ours = [name for name in files if "/" in name or name.endswith(".py")]
    gone = [name for name in ours if not any((top / name).is_file() for top in tops) and not elsewhere(name, text)]
    folders = re.findall(r"`((?:tests|benchmarks|recipes|cirilla_cli)/[\w./-]*)`", text)
    gone += [name for name in folders if not re.search("NAME|VERB", name) and not (ROOT / name).exists()]
    dotted = re.findall(r"\b(cirilla_cli(?:\.\w+)+)\b(?!\.py)", text)
    dotted += re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", page.read_text(encoding="utf-8"))
    scripts = re.findall(r"python ((?:benchmarks|tests)/[\w./]+\.py)", page.read_text(encoding="utf-8"))
    gone += [name for name in dotted if not is_defined(name)]
    gone += [name for name in scripts if not (ROOT / name).is_file()]
    assert gone == []


def elsewhere(name: str, text: str) -> bool:
    """A bare name such as `batches.py` beside the folder it is in, or `config.py`, which every area has."""
    folders = (ROOT / "cirilla_cli" / area for area in re.findall(r"(\w+)/", text))
    return "/" not in name and any((folder / name).is_file() for folder in folders)


# What pages must not say


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert MACHINE.findall(text) == []
    assert len(ROOT.parts) < 3 or str(ROOT) not in text


@pytest.mark.parametrize("text", ["in /tmp/x", "`/home/me`", "/root", "C:\\Users"])
def test_a_place_of_one_machine_is_noticed(text: str) -> None:
    assert MACHINE.search(text)


# The reference


def reference() -> str:
    """The generated reference, its headings one level down."""
    from cirilla_cli.recipe.docs import reference_markdown

    return re.sub(r"^#", "##", reference_markdown(), flags=re.M).strip()


def test_the_reference_of_recipe_keys_is_current() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == reference(), "python tests/test_docs.py writes it anew"


@pytest.mark.parametrize(
    ("page", "record"), [("scrape.md", Document), ("synth.md", Sample), ("evaluation.md", Question)]
)
def test_the_page_about_a_row_names_its_every_field(page: str, record: type[Record]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [field for field in record.model_fields if f"`{field}`" not in text and f'"{field}"' not in text] == []


def test_the_size_budgets_are_read_from_the_page() -> None:
    rows = re.findall(r"^\| (`[\w` ,]+`) \| ([\d,]+) \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.M)
    named = {name for cell, _ in rows for name in re.findall(r"\w+", cell)}
    areas = {path.name for path in (ROOT / "cirilla_cli").iterdir() if (path / "__init__.py").is_file()}
    assert named == areas | {"rest"}


def rewrite() -> None:
    """Put the reference between its markers."""
    page = ROOT / "docs" / "recipes.md"
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n{reference()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
