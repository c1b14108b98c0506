"""What each verb does with its words and flags: find the recipe, lay overrides over it, run, report."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cirilla_cli.cli.launch import after_the_first, launch, place_of
from cirilla_cli.cli.options import Flags
from cirilla_cli.cli.places import check_out
from cirilla_cli.cli.render import plain, progress_for, show_json, tell
from cirilla_cli.cli.sharing import part_said, share_of
from cirilla_cli.cli.words import Reading, read_words
from cirilla_cli.errors import CirillaError, UsageError, Where
from cirilla_cli.recipe.load import Resolved, load_recipe
from cirilla_cli.units import show_bytes, show_count, show_seconds

if TYPE_CHECKING:
    from cirilla_cli.engine.config import Place


def _value(value: Any) -> str:
    """A Python value as an override writes it; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _resolve(verb: str, reading: Reading, default: str, extra: Mapping[str, Any], flags: Flags) -> Resolved:
    """The recipe a call means: named or default, under what flags and words say."""
    overrides = [f"{key}={_value(value)}" for key, value in extra.items()]
    if flags.device is not None:
        overrides.append(f"device={_value(flags.device)}")
    recipe = reading.recipe or default
    if reading.recipe is None and not flags.quiet:
        tell(f"recipe: {default} ({verb})")
    resolved = load_recipe(recipe, verb, overrides=[*overrides, *reading.overrides], out=flags.out)
    if verb not in ("generate", "push"):  # they write to standard output and to `push.to`
        check_out(resolved)
    return resolved


def _shown(resolved: Resolved, flags: Flags) -> None:
    from cirilla_cli.recipe.explain import show

    if flags.json:
        show_json({"recipe": resolved.data, "hash": resolved.hash})
    else:
        print(show(resolved, why=True), end="")


def _run(resolved: Resolved, flags: Flags, place: "Place | None" = None) -> Any:
    """Run a resolved recipe under the flags' progress."""
    from cirilla_cli.cli.execute import Control, run

    control = Control(flags.fresh, flags.resume, place, flags.verify_resume, share_of(flags), flags.merge)
    with progress_for(quiet=flags.quiet or flags.json, verbose=flags.verbose) as progress:
        return run(resolved, progress, control)


def _data(resolved: Resolved, flags: Flags, summary: Callable[[Any], str]) -> None:
    """Show the recipe of a data verb, or run it and tell what came of it."""
    share = share_of(flags)
    if flags.dry_run:
        _shown(resolved, flags)
        return
    report = _run(resolved, flags)
    _finish(resolved, report, flags, summary(report) if share is None else part_said(report))


def _finish(resolved: Resolved, report: Any, flags: Flags, summary: str) -> None:
    if flags.json:
        # Rows on stdout leave no place for a report there.
        if resolved.out == "-":
            tell(json.dumps(plain(report), default=str))
        else:
            show_json(report)
    elif not flags.quiet:
        tell(summary)


_FANDOM = (
    "Fandom's terms forbid automated access without permission, and it publishes XML dumps instead.\n"
    "1. Open https://witcher.fandom.com/wiki/Special:Statistics and take the link to the current pages' dump.\n"
    "2. cirilla scrape --dump THAT-LINK --out documents.jsonl (or its file, downloaded by hand)\n"
    "A wiki whose terms allow it: cirilla scrape wikipedia-witcher --contact you@example.org\n"
    "With Fandom's permission: cirilla scrape --api https://witcher.fandom.com/api.php "
    "--permission 'who and when' --contact ..."
)


def scrape_verb(words: Sequence[str], given: Mapping[str, Any], flags: Flags) -> None:
    """`cirilla scrape`."""
    reading = read_words(words, "scrape")
    extra = _scrape_source(reading, given)
    if "again" in given:
        if flags.fresh and flags.shard is None:
            raise UsageError(
                "--again and --fresh contradict each other: rows are made of what is kept, and --fresh forgets it",
                hint="leave out --fresh, as all rows are made anew; --fresh with the scrape's own command fetches anew",
            )
        flags = replace(flags, out=flags.out or given["again"])
    if reading.recipe is None and not extra and not any(o.startswith("scrape.") for o in reading.overrides):
        raise CirillaError("what should be scraped?", hint=_FANDOM)
    resolved = _resolve("scrape", reading, "default", extra, flags)
    _data(resolved, flags, lambda r: f"{r.documents} documents in {resolved.out} ({show_seconds(r.seconds)})")


def _scrape_source(reading: Reading, given: Mapping[str, Any]) -> dict[str, Any]:
    sources = [name for name in ("api", "dump", "files", "again") if name in given]
    if len(sources) + len(reading.inputs) > 1:
        raise UsageError("one source at a time: --api, --dump, --files, --again, or a path")
    extra = {f"scrape.{key}": given[key] for key in ("contact", "limit") if key in given}
    if "api" in given:
        extra |= {"scrape.source.kind": "mediawiki", "scrape.source.api": given["api"]}
    for key in ("category", "permission"):
        if key in given:
            extra[f"scrape.source.{key}"] = given[key]
    if "again" in given:
        extra |= _again(Path(given["again"]), reading)
    if any((Path(word) / "ATTRIBUTION.md").is_file() for word in reading.inputs):
        named = reading.inputs[0]
        raise UsageError(f"{named}: holds what an earlier scrape left", hint=f"--again {named}, or --files {named}")
    path = given.get("dump") or given.get("files") or next(iter(reading.inputs), None)
    if path is not None:
        is_dump = "dump" in given or (
            "files" not in given and Path(path).is_file() and not path.endswith((".jsonl", ".txt"))
        )
        extra |= {"scrape.source.kind": "dump" if is_dump else "files", "scrape.source.path": path}
    return extra


def _again(path: Path, reading: Reading) -> dict[str, Any]:
    """The recipe of a scrape that is made again: its own rules, where the call names no other recipe."""
    from cirilla_cli.scrape.earlier import earlier

    rules = {} if reading.recipe is not None else earlier(path).rules()
    changed = {override.partition("=")[0] for override in reading.overrides}
    own = {f"scrape.{key}": value for key, value in rules.items() if f"scrape.{key}" not in changed}
    return {"scrape.source.kind": "scraped", "scrape.source.path": str(path), **own}


def synth_verb(
    words: Sequence[str], source: str | None, teacher: str | None, flags: Flags, *, preview: int | None = None
) -> None:
    """`cirilla synth`."""
    if preview is not None and preview < 1:
        raise CirillaError(f"`--preview` is {preview}: must be at least 1", hint="--preview 5")
    reading = read_words(words, "synth")
    extra: dict[str, Any] = {}
    if source in ("ollama", "openai"):
        source, teacher = "teacher", teacher or f"{source}:"
    if source is not None:
        extra["synth.source.kind"] = source
    if teacher is not None:
        from cirilla_cli.teachers.config import parse_teacher

        extra["synth.source.kind"] = "teacher"
        section = parse_teacher(teacher).model_dump(mode="json", exclude_defaults=True)
        extra |= {"synth.source.teacher.kind": teacher.partition(":")[0]}
        extra |= {f"synth.source.teacher.{key}": value for key, value in section.items() if key != "kind"}
    asked = extra.get("synth.source.kind") or next(
        (o.partition("=")[2] for o in reading.overrides if o.startswith("synth.source.kind=")), None
    )
    if reading.inputs:
        extra["synth.inputs"] = reading.inputs
    elif (
        asked != "reasoning-gym"
        and reading.recipe is None
        and not any(o.startswith("synth.inputs") for o in reading.overrides)
    ):
        extra["synth.inputs"] = [_documents(flags)]
    resolved = _resolve("synth", reading, "default", extra, flags)
    if preview is not None and not flags.dry_run:
        _previewed(resolved, preview, flags)
        return
    _data(resolved, flags, lambda r: f"{r.samples} samples in {resolved.out} ({show_seconds(r.seconds)})")


def _previewed(resolved: Resolved, count: int, flags: Flags) -> None:
    """Print the first rows to standard output, as text or as one object."""
    from cirilla_cli.cli.execute import preview

    with progress_for(quiet=flags.quiet or flags.json, verbose=flags.verbose) as progress:
        found = preview(resolved, count, progress)
    if flags.json:
        show_json(found)
    else:
        print(found.text())


def _documents(flags: Flags) -> str:
    """What a bare `synth` reads: here, else the newest scrape, else the bundled wiki; which is said."""
    from cirilla_cli.fs import newest

    here = Path("documents.jsonl")
    found = here if here.is_file() else newest(Path("runs").glob("**/documents.jsonl"))
    if found is None:
        found = _bundled_documents()
    if not flags.quiet:
        tell(f"documents: {found}")
    return str(found)


def _bundled_documents() -> Path:
    resolved = load_recipe("quickstart", "scrape")
    from cirilla_cli.cli.execute import Control, scrape
    from cirilla_cli.progress import Silent

    scrape(resolved, Silent(), Control())
    return Path(resolved.out) / "documents.jsonl"


def curate_verb(words: Sequence[str], flags: Flags) -> None:
    """`cirilla curate`."""
    reading = read_words(words, "curate")
    names = _distinct([_stem(path) for path in reading.inputs])
    extra = {f"curate.sources.{name}.path": path for name, path in zip(names, reading.inputs, strict=True)}
    resolved = _resolve("curate", reading, "default", extra, flags)
    _data(resolved, flags, lambda r: f"{r.summary()} in {resolved.out} ({show_seconds(r.seconds)})")


def tokenize_verb(words: Sequence[str], flags: Flags) -> None:
    """`cirilla tokenize`."""
    reading = read_words(words, "tokenize")
    extra = {"tokenize.inputs": reading.inputs} if reading.inputs else {}
    resolved = _resolve("tokenize", reading, "default", extra, flags)
    _data(resolved, flags, lambda report: f"{_tokens(report)} in {resolved.out}")


def _tokens(report: Any) -> str:
    tokens = sum(split["tokens"] for splits in report.kinds.values() for split in splits.values())
    return f"{show_count(tokens)} tokens of {report.vocab_size} kinds, {report.bytes_per_token} bytes each,"


def train_verb(verb: str, words: Sequence[str], flags: Flags) -> None:
    """`cirilla pretrain`, `sft`, `dpo`."""
    if sum((flags.fresh, flags.resume, flags.verify_resume)) > 1:
        raise UsageError("--fresh, --resume and --verify-resume contradict each other")
    if flags.verify_resume and flags.dry_run:
        raise UsageError("--verify-resume trains and writes nothing by itself", hint="leave --dry-run out")
    if flags.verify_resume and flags.nproc not in (None, 1):
        raise UsageError("--verify-resume replays in one process", hint="leave --nproc out")
    place = place_of(os.environ)
    if place is not None and flags.nproc is not None:
        raise UsageError("--nproc starts processes, and torchrun has started these already", hint="leave --nproc out")
    flags = replace(flags, quiet=flags.quiet or (place is not None and place.rank > 0))
    reading = read_words(words, verb)
    extra: dict[str, Any] = {}
    if verb == "pretrain":
        names = _names(reading)
        extra |= {f"data.sources.{name}.path": path for name, path in zip(names, reading.inputs, strict=True)}
    elif reading.inputs:
        extra["data.path"] = reading.inputs
    if reading.recipe is None:
        from cirilla_cli.cli.newest import training_inputs

        extra = {**training_inputs(verb, reading), **extra}
    resolved = _resolve(verb, reading, "quickstart", extra, flags)
    if flags.dry_run:
        _planned(resolved, flags)
    elif flags.nproc is not None and flags.nproc > 1:
        launch(verb, words, flags, Path(resolved.out))
    elif place is None or place.rank == 0:
        report = _run(resolved, flags, place)
        _finish(resolved, report, flags, _proved(report) if flags.verify_resume else _trained(report))
    else:
        with after_the_first():
            _run(resolved, flags, place)


def _planned(resolved: Resolved, flags: Flags) -> None:
    """The recipe and, as comments under it, what training it would do.

    Raises:
        CirillaError: the run would be refused; the recipe has been shown by then, except under `--json`.
    """
    from cirilla_cli.cli.execute import Control, plan
    from cirilla_cli.engine.config import Place

    if not flags.json:
        _shown(resolved, flags)
    processes = flags.nproc or 1
    with progress_for(quiet=flags.quiet or flags.json, verbose=flags.verbose) as progress:
        place = Place(size=processes, local_size=processes)
        planned = plan(resolved, progress, Control(flags.fresh, flags.resume, place))
    if flags.json:
        show_json({"recipe": resolved.data, "hash": resolved.hash, "plan": plain(planned)})
        return
    print("".join(f"# {line}\n" for line in planned.lines()), end="")


def _names(reading: Reading) -> list[str]:
    """A name for each input as a source, from its path; no two are the same.

    The built-in recipe's one source is called wiki: without a recipe, a call's first input takes its place.
    """
    names = [_stem(path) for path in reading.inputs]
    return _distinct(names if reading.recipe else ["wiki", *names[1:]][: len(names)])


def _stem(path: str) -> str:
    """A source's name, from its path."""
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in Path(path).stem) or "text"


def _distinct(wanted: Sequence[str]) -> list[str]:
    """The same names, numbered on where one comes again."""
    names: list[str] = []
    for name in wanted:
        more = (f"{name}_{i}" for i in count(2))
        names.append(next(free for free in chain([name], more) if free not in names))
    return names


def _proved(proof: Any) -> str:
    damaged = f"; damaged, passed over: {', '.join(proof.damaged)}" if proof.damaged else ""
    return (
        f"{proof.out}: replayed from step {proof.begun} to {proof.step}: all {proof.tensors} tensors equal, "
        f"bit for bit{damaged}"
    )


def _trained(report: Any) -> str:
    if report.already_done:
        return f"done already: {report.out}, step {report.step} (--fresh starts over)"
    loss = "" if report.loss is None else f", loss {report.loss:.3f}"
    val = "" if report.val_loss is None else f", validation {report.val_loss:.3f}"
    memory = "" if report.peak_memory_bytes is None else f", {show_bytes(report.peak_memory_bytes)} at most"
    right = (report.last_validation or {}).get("accuracy")
    val += "" if right is None else f", {right:.1%} of held-out texts right"
    return f"{report.out}: step {report.step}{loss}{val}, {show_seconds(report.seconds)}{memory}"


def _model_word(reading: Reading, key: str) -> dict[str, Any]:
    if len(reading.inputs) > 1:
        raise CirillaError(f"one model at a time; given: {', '.join(reading.inputs)}")
    return {key: reading.inputs[0]} if reading.inputs else {}


def eval_verb(
    words: Sequence[str], texts: Sequence[str], questions: str | None, labels: str | None, flags: Flags
) -> None:
    """`cirilla eval`."""
    reading = read_words(words, "eval")
    extra = _model_word(reading, "eval.model")
    if texts:
        extra |= {"eval.tasks.text.kind": "text", "eval.tasks.text.path": list(texts)}
    if questions is not None:
        extra |= {"eval.tasks.questions.kind": "questions", "eval.tasks.questions.path": questions}
    if labels is not None:
        extra |= {"eval.tasks.labels.kind": "classification", "eval.tasks.labels.path": labels}
    resolved = _resolve("eval", reading, "default", extra, flags)
    recipe: Any = resolved.recipe
    if flags.dry_run:
        _shown(resolved, flags)
        return
    if not recipe.eval.tasks:
        raise CirillaError(
            "nothing to measure", hint="--text FILE, --questions FILE, --labels FILE, or a recipe with eval.tasks"
        )
    scores = _run(resolved, flags)
    from cirilla_cli.evals.run import table

    if flags.json and texts and list(recipe.eval.tasks) == ["text"]:
        numbers = scores.tasks["text"]["model"]
        show_json({key: numbers[key] for key in ("bits_per_byte", "perplexity", "bytes", "tokens")})
    elif flags.json:
        show_json(scores)
    else:
        print(table(scores))


def generate_verb(
    words: Sequence[str],
    prompts: Sequence[str],
    file: str | None,
    ids: str | None,
    settings: Mapping[str, Any],
    flags: Flags,
) -> None:
    """`cirilla generate`."""
    from cirilla_cli.cli.execute import enough_memory, load_any

    reading = read_words(words, "generate")
    extra = {**_model_word(reading, "model"), **{f"generate.{key}": value for key, value in settings.items()}}
    resolved = _resolve("generate", reading, "default", extra, flags)
    if flags.dry_run:
        _shown(resolved, flags)
        return
    recipe: Any = resolved.recipe
    asked = list(_prompts(prompts, file, ids, recipe.generate.prompts))
    with enough_memory(), progress_for(quiet=flags.quiet or flags.json, verbose=flags.verbose) as progress:
        loaded = load_any(recipe.model, recipe.device, recipe.generate.dtype, progress)
        _answer(resolved, loaded, asked, flags, progress)


def _prompts(texts: Sequence[str], file: str | None, ids: str | None, own: Sequence[str]) -> Iterator[Any]:
    """What is continued: flags, a file's lines, the recipe's own prompts, or lines of standard input."""
    from cirilla_cli.infer.run import Prompt

    if ids is not None:
        try:
            yield Prompt(ids=tuple(int(word) for word in ids.replace(",", " ").split()))
        except ValueError:
            raise CirillaError(
                f"`--prompt-ids` is {ids!r}, must be whole numbers", hint='--prompt-ids "1 2 3"'
            ) from None
    yield from (Prompt(text=text) for text in texts)
    if file is not None:
        yield from (Prompt(text=line) for line in _lines(Path(file)))
    if ids is None and not texts and file is None:
        if own:
            yield from (Prompt(text=text) for text in own)
        elif sys.stdin.isatty():
            raise CirillaError(
                "there is no prompt", hint='--prompt "...", --prompt-file FILE, or lines on standard input'
            )
        else:
            yield from (Prompt(text=line) for line in _text("<stdin>", sys.stdin.buffer.read()))


def _lines(path: Path) -> list[str]:
    try:
        return _text(str(path), path.read_bytes())
    except OSError as error:
        raise CirillaError(f"{path}: cannot be read: {error.strerror}") from None


def _text(name: str, data: bytes) -> list[str]:
    """The lines that are not blank; a line ends at a line feed only, as it does for every other tool in a pipe."""
    lines, wrong = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError:
            wrong.append(Where(name, number, expected="not UTF-8"))
    if wrong:
        raise CirillaError("\n".join(f"{w.file}:{w.line}: {w.expected}" for w in wrong[:20]), where=wrong)
    return [line for line in lines if line.strip()]


def _answer(resolved: Resolved, loaded: Any, asked: list[Any], flags: Flags, progress: Any) -> None:
    from cirilla_cli.cli.execute import answer, answer_row, seeded
    from cirilla_cli.infer.run import stream, wants_chat

    if not asked:
        raise CirillaError("there is no prompt: standard input is empty")
    config: Any = seeded(resolved.recipe)
    writes = loaded.config.kind == "decoder"
    if writes and not config.chat and wants_chat(loaded):
        progress.say("hint: this model was tuned on chats; --chat puts the prompt into its template")
    if writes and len(asked) == 1 and not flags.json:
        for piece in stream(config, loaded, asked[0]):
            print(piece, end="", flush=True)
        print(flush=True)
        return
    for given in answer(resolved, loaded, asked, progress):
        if flags.json:
            show_json(answer_row(given))
        else:
            print(" ".join(map(str, given.tokens)) if given.text is None else given.text, flush=True)


def push_verb(words: Sequence[str], to: str | None, scores: str | None, flags: Flags) -> None:
    """`cirilla push`."""
    from cirilla_cli.cli.execute import Control, push

    reading = read_words(words, "push")
    extra = _model_word(reading, "push.model")
    if to is not None:
        extra["push.to"] = to
    resolved = _resolve("push", reading, "default", extra, flags)
    with progress_for(quiet=flags.quiet or flags.json, verbose=flags.verbose) as progress:
        report = push(resolved, progress, Control(), scores=Path(scores) if scores else None, dry_run=flags.dry_run)
    if flags.json:
        show_json(report)
        return
    for file in report.files:
        print(f"{show_bytes(file.bytes):>10}  {file.name}")
    for check in report.checks:
        tell(f"{check.outcome:>10}  {check.name}: {check.detail}")
    tell(f"{'written to' if report.written else 'would go to'} {report.to}")
