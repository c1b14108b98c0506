"""`cirilla recipe …`: the recipe language, explained and checked."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cirilla_cli.cli.options import Json

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False,
    help="List, show, copy, check, explain and compare recipes.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

Name = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or a built-in one: NAME, NAME/VERB or NAME/PART.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.", show_default=False)]
Verb = Annotated[
    str | None, typer.Option("--verb", metavar="VERB", help="Which verb it is for, where the file does not say.")
]


def split_name(name: str, verb: str | None) -> tuple[str, str | None]:
    """A file as it is; NAME/VERB of a built-in one as name and verb."""
    head, slash, tail = name.partition("/")
    from cirilla_cli.recipe import builtin

    if slash and not Path(name).exists() and builtin.has(head, tail):
        return head, tail
    return name, verb


@app.command("list")
def list_(json_: Json = False) -> None:
    """The built-in recipes."""
    from cirilla_cli.cli.render import columns, show_json
    from cirilla_cli.recipe.builtin import list_recipes

    listed = list_recipes()
    if json_:
        show_json(listed)
        return
    print(columns([["name", "verb", "about"], *([r["name"], r["verb"], r["about"]] for r in listed)]))


@app.command()
def show(
    name: Name,
    overrides: Overrides = None,
    why: Annotated[bool, typer.Option("--why", help="Say where each value comes from.")] = False,
    verb: Verb = None,
    json_: Json = False,
) -> None:
    """A recipe with everything it builds on and every default filled in."""
    from cirilla_cli.cli.render import show_json
    from cirilla_cli.recipe.explain import show as text
    from cirilla_cli.recipe.load import load_recipe

    recipe, known = split_name(name, verb)
    resolved = load_recipe(recipe, known, overrides=overrides or ())
    if json_:
        show_json({"recipe": resolved.data, "origins": {k: str(o) for k, o in resolved.origins.items()}})
    else:
        print(text(resolved, why=why), end="")


@app.command()
def copy(
    name: Name,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; nothing is overwritten.")],
    verb: Verb = None,
) -> None:
    """A built-in recipe as a file of your own; a pipeline's own recipes are put beside it."""
    from cirilla_cli.cli.places import check_place
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.fs import write_text
    from cirilla_cli.recipe.load import locate

    recipe, known = split_name(name, verb)
    source = locate(recipe, known)
    target = to / source.name if to.is_dir() else to
    files = {target: source, **{target.parent / part: source.parent / part for part in _own_recipes(source)}}
    there = [str(path) for path in files if path.exists()]
    if there:
        raise CirillaError(f"{', '.join(there)}: exists already", hint="name another file, or remove it first")
    check_place(target.parent, "FILE")
    for path, original in files.items():
        write_text(path, original.read_text(encoding="utf-8"))
        print(path)


def _own_recipes(source: Path) -> list[str]:
    """The files that a pipeline names as its stages' recipes."""
    from cirilla_cli.recipe.load import load_recipe

    if source.stem != "pipeline":
        return []
    recipe: Any = load_recipe(source, "run").recipe
    named = [stage.recipe for stage in recipe.stages.values() if stage.recipe is not None]
    return sorted({name for name in named if name.endswith((".yaml", ".yml"))})


@app.command()
def check(name: Name, overrides: Overrides = None, verb: Verb = None, json_: Json = False) -> None:
    """Every mistake in a recipe, with file, line, key, value and remedy; exit 1 if there is one."""
    from cirilla_cli.cli.render import show_json
    from cirilla_cli.recipe.load import load_recipe
    from cirilla_cli.recipe.rules import notes

    recipe, known = split_name(name, verb)
    resolved = load_recipe(recipe, known, overrides=overrides or ())
    _check_stages(resolved)
    said = notes(resolved.data)
    if json_:
        show_json({"ok": True, "verb": resolved.verb, "hash": resolved.hash, "notes": said})
    else:
        print(
            "\n".join([f"{resolved.path}: a good recipe for `cirilla {resolved.verb}`", *(f"note: {n}" for n in said)])
        )


def _check_stages(resolved: object) -> None:
    """A pipeline is good when each of its stages' recipes is."""
    from cirilla_cli.recipe.load import Resolved

    assert isinstance(resolved, Resolved)
    if resolved.verb == "run":
        from cirilla_cli.cli.pipeline import resolve_stages

        resolve_stages(resolved)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A dotted key, such as optim.lr, or VERB:KEY.")],
    verb: Verb = None,
) -> None:
    """What a key means, its type, default and choices."""
    from cirilla_cli.recipe.explain import explain as text

    head, colon, tail = key.partition(":")
    print(text(head if colon else verb, tail if colon else key))


@app.command()
def diff(a: Name, b: Name, verb: Verb = None, json_: Json = False) -> None:
    """The keys in which two resolved recipes differ."""
    from cirilla_cli.cli.render import columns, show_json
    from cirilla_cli.recipe.explain import diff as compare
    from cirilla_cli.recipe.load import load_recipe

    one, other = (load_recipe(*split_name(name, verb)) for name in (a, b))
    found = compare(one.data, other.data)
    if json_:
        show_json([d._asdict() for d in found])
    elif not found:
        print("no difference")
    else:
        print(columns([["key", a, b], *([d.key, str(d.before), str(d.after)] for d in found)]))


@app.command()
def schema(
    verb: Annotated[
        str | None, typer.Argument(metavar="[VERB]", help="Of this verb's recipes; default: of all.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="For files with `extends`: nothing is required.")] = False,
) -> None:
    """The JSON Schema, for editors."""
    from cirilla_cli.cli.render import show_json
    from cirilla_cli.errors import CirillaError
    from cirilla_cli.recipe.explain import json_schema
    from cirilla_cli.recipe.schema import VERBS

    if verb is not None and verb not in VERBS:
        raise CirillaError(f"`{verb}` is not a verb with recipes; there are {', '.join(VERBS)}")
    show_json(json_schema(verb, partial=partial))
