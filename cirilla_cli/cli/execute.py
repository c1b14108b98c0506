"""A resolved recipe handed to the one function of its area; used by the verbs and by pipelines alike."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cirilla_cli.cli.places import check_place
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.fs import naming
from cirilla_cli.progress import Progress
from cirilla_cli.recipe.load import Resolved
from cirilla_cli.recipe.tree import DEFAULT

if TYPE_CHECKING:
    from cirilla_cli.checkpoint import AnyFound
    from cirilla_cli.data.parts import Share
    from cirilla_cli.engine.config import Place
    from cirilla_cli.infer.run import Prompt


@dataclass(frozen=True)
class Control:
    """Run control that is not part of a recipe."""

    fresh: bool = False
    resume: bool = False
    place: "Place | None" = None
    """Which of the processes of a training run this is; None for the only one."""
    verify_resume: bool = False
    share: "Share | None" = None
    """Which share of a data stage's work is done; None for all of it."""
    merge: bool = False
    """Whether the parts of a data stage become the whole."""


def scrape(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """Documents to the recipe's `out`."""
    from cirilla_cli.recipe.builtin import bundled
    from cirilla_cli.scrape.run import scrape as area
    from cirilla_cli.scrape.shared import scrape_merge, scrape_share

    config: Any = resolved.recipe.scrape  # type: ignore[attr-defined]
    if getattr(config.source, "path", None) is not None and str(config.source.path).startswith("builtin:"):
        source = config.source.model_copy(update={"path": bundled(str(config.source.path))})
        config = config.model_copy(update={"source": source})
    if control.share is not None:
        return scrape_share(config, Path(resolved.out), control.share, progress, fresh=control.fresh)
    if control.fresh:
        forget(resolved)
    report = (scrape_merge if control.merge else area)(config, Path(resolved.out), progress)
    if report.documents == 0:
        why = ", ".join(f"{count} {reason}" for reason, count in report.rejected.items()) or "there are no pages"
        each = "rejects.jsonl, beside the documents, names each page"
        raise CirillaError(
            f"no documents came of it: {why}", hint=each if report.rejected else "scrape.source selects none"
        )
    return report


def synth(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """Samples to the recipe's `out`."""
    from cirilla_cli.synth.run import places, synthesize
    from cirilla_cli.synth.shared import synth_merge, synth_share

    config, out = _synth_section(resolved), Path(resolved.out)
    if control.share is not None:
        return synth_share(config, out, control.share, progress, fresh=control.fresh)
    if control.fresh:
        forget(resolved)
    if control.merge:
        return synth_merge(config, out, progress)
    with _alone(places(out)[1]):
        return synthesize(config, out, progress)


def _alone(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes out of ``folder``; standard output has none."""
    from cirilla_cli.held import held

    return contextlib.nullcontext() if folder is None else held(folder)


def preview(resolved: Resolved, count: int, progress: Progress) -> Any:
    """The first rows that `synth` would make."""
    from cirilla_cli.synth.run import look

    return look(_synth_section(resolved), Path(resolved.out), count, progress)


def _synth_section(resolved: Resolved) -> Any:
    """The recipe's section, with its seed and the key from outside filled in."""
    from pydantic import SecretStr

    config: Any = resolved.recipe.synth  # type: ignore[attr-defined]
    if config.source.kind in ("reasoning-gym", "teacher") and config.source.seed is None:
        config = config.model_copy(update={"source": config.source.model_copy(update={"seed": resolved.recipe.seed})})
    key = os.environ.get("OPENAI_API_KEY")
    if key and config.source.kind == "teacher":
        source = _with_key(config.source, SecretStr(key))
        judge = None if source.judge is None else _with_key(source.judge, SecretStr(key))
        config = config.model_copy(update={"source": source.model_copy(update={"judge": judge})})
    return config


def _with_key(section: Any, key: Any) -> Any:
    """A section with the key in its teacher, where that wants one."""
    if section.teacher is None or section.teacher.kind != "openai":
        return section
    return section.model_copy(update={"teacher": section.teacher.model_copy(update={"api_key": key})})


def curate(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """A curated set to the recipe's `out`."""
    from cirilla_cli.curate.run import curate as area
    from cirilla_cli.curate.shared import curate_merge, curate_share

    recipe: Any = resolved.recipe
    if control.share is not None:
        job = recipe.curate, Path(resolved.out), control.share, progress
        return curate_share(*job, seed=recipe.seed, fresh=control.fresh)
    if control.merge:
        return curate_merge(recipe.curate, Path(resolved.out), progress, seed=recipe.seed)
    return area(recipe.curate, Path(resolved.out), progress, seed=recipe.seed, fresh=control.fresh)


def tokenize(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """A tokenizer and shards in the recipe's `out`."""
    from cirilla_cli.data.run import tokenize as area
    from cirilla_cli.data.shared import tokenize_merge, tokenize_share

    config: Any = resolved.recipe.tokenize  # type: ignore[attr-defined]
    if control.share is not None:
        return tokenize_share(config, Path(resolved.out), control.share, progress, fresh=control.fresh)
    if control.fresh:
        forget(resolved)
    if control.merge:
        return tokenize_merge(config, Path(resolved.out), progress)
    with _alone(Path(resolved.out)):
        return area(config, Path(resolved.out), progress)


def train(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """A run directory at the recipe's `out`."""
    from cirilla_cli.cli.allocator import keep_freed_memory, map_large_blocks
    from cirilla_cli.engine.run import train as area
    from cirilla_cli.engine.run import verify_resume

    if resolved.data["deterministic"]:
        # Read once, when cuBLAS is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with enough_memory():
        job = job_of(resolved, control.place)
        if control.verify_resume:
            keep_freed_memory()
            return verify_resume(job, progress)
        map_large_blocks()
        return area(job, progress, restart=control.fresh, insist=control.resume, settled=keep_freed_memory)


def plan(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """What `train` would do, and what it would refuse; nothing is written."""
    from cirilla_cli.engine.run import plan as area

    with enough_memory():
        return area(job_of(resolved, control.place), progress, restart=control.fresh, insist=control.resume)


def job_of(resolved: Resolved, place: "Place | None" = None) -> Any:
    """The training run that a recipe says, without running it."""
    from cirilla_cli.engine.config import Place
    from cirilla_cli.engine.run import Job
    from cirilla_cli.recipe.explain import show

    recipe: Any = resolved.recipe
    sections = (
        "model", "tokenizer", "data", "objective", "train", "optim", "schedule", "precision", "memory", "parallel",
        "checkpoint", "eval", "log", "seed", "device", "deterministic", "compile",
    )  # fmt: skip
    texts = {"recipe.yaml": resolved.path.read_text(encoding="utf-8"), "resolved.yaml": show(resolved)}
    return Job(
        verb=resolved.verb, out=Path(resolved.out), resolved=resolved.data, texts=texts, place=place or Place(),
        **{name: getattr(recipe, name) for name in sections},
    )  # fmt: skip


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Turns what torch raises where memory runs out into a message.

    Raises:
        CirillaError: it ran out.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch has no class of its own for it.
        spoken = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not spoken:
            raise
        raise CirillaError(
            f"out of memory: {str(error).splitlines()[0]}",
            hint="a smaller model, train.micro_batch_tokens, eval.batch or generate.batch; or --device cpu",
        ) from None


def load_any(where: str | None, device: str, dtype: str, progress: Progress) -> "AnyFound":
    """The model a verb names, of whatever kind, or the newest under runs/, which is said."""
    from cirilla_cli.compat import device_problem, pick_device
    from cirilla_cli.infer.run import dtype_of
    from cirilla_cli.loading import load_any as area
    from cirilla_cli.loading import newest_model

    if problem := device_problem(device):
        raise CirillaError(f"`device` is {device!r}: {problem}", hint="device=cpu, or leave it out")
    picked = pick_device(device)
    if where is None:
        where = str(newest_model())
        progress.say(f"model: {where}")
    return area(where, device=str(picked), dtype=dtype_of(dtype, picked), progress=progress)


def evaluate(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """Scores, also written to ``scores.json`` in the recipe's `out`."""
    from cirilla_cli.evals.run import evaluate as area
    from cirilla_cli.evals.run import untrained

    recipe: Any = resolved.recipe
    config = recipe.eval
    with enough_memory():
        models = {"model": load_any(config.model, recipe.device, config.dtype, progress)}
        for name, where in config.compare.items():
            models[name] = load_any(where, recipe.device, config.dtype, progress)
        if config.untrained:
            models["untrained"] = untrained(models["model"], seed=recipe.seed)
        return area(config, models, Path(resolved.out), progress)


def generate(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """The recipe's own prompts, answered into ``answers.jsonl`` in its `out`."""
    from cirilla_cli.data.jsonl import JsonlWriter
    from cirilla_cli.infer.run import Prompt

    recipe: Any = resolved.recipe
    config = recipe.generate
    if not config.prompts:
        raise CirillaError(
            "`generate.prompts` is empty: there is nothing to continue", hint="generate.prompts=['Who is Geralt?']"
        )
    asked = [Prompt(text=text) for text in config.prompts]
    loaded = load_any(recipe.model, recipe.device, config.dtype, progress)
    answers = list(answer(resolved, loaded, asked, progress))
    with JsonlWriter(Path(resolved.out) / "answers.jsonl") as writer:
        for given in answers:
            writer.write(answer_row(given))
    return {"out": resolved.out, "answers": [{"prompt": a.prompt, "text": a.text} for a in answers]}


def answer(resolved: Resolved, loaded: "AnyFound", asked: "Sequence[Prompt]", progress: Progress) -> Any:
    """What a model of any kind says to prompts, one after the other: continuations, labels, or fillings.

    Raises:
        CirillaError: the recipe or the call gives keys that mean nothing to this kind of model.
    """
    from cirilla_cli.infer.run import answers

    if loaded.config.kind != "decoder":
        _refuse_idle(resolved, loaded.config.kind)
    return answers(seeded(resolved.recipe), loaded, asked, progress)


_FOR_READERS = ("batch", "dtype", "prompts")
"""Keys of `generate` that mean something to models that do not write."""


def _refuse_idle(resolved: Resolved, kind: str) -> None:
    """Raises: CirillaError: somebody set keys of `generate` that do nothing with a model of this kind."""
    given = [key for key, origin in resolved.origins.items() if key.startswith("generate.") and origin != DEFAULT]
    idle = sorted(
        {".".join(key.split(".")[:2]) for key in given if key.split(".")[1].split("[")[0] not in _FOR_READERS}
    )
    if idle:
        where = [Where(key=key, expected=f"left out: the model is of kind {kind}") for key in idle]
        said = (
            f"{', '.join(f'`{key}`' for key in idle)}: of no meaning for a model of kind {kind}, which writes nothing"
        )
        raise CirillaError(said, hint=f"leave {'it' if len(idle) == 1 else 'them'} out", where=where)


def seeded(recipe: Any) -> Any:
    """The generate section with the recipe's seed where it has none of its own."""
    config = recipe.generate
    return config if config.seed is not None else config.model_copy(update={"seed": recipe.seed})


def answer_row(answer: Any) -> dict[str, Any]:
    """One answer as `--json` prints it: the fields of its kind."""
    return asdict(answer)


def push(
    resolved: Resolved, progress: Progress, control: Control, *, scores: Path | None = None, dry_run: bool = False
) -> Any:
    """A published model, or a data set."""
    from pydantic import SecretStr

    secret = os.environ.get("HF_TOKEN")
    token = SecretStr(secret) if secret else None
    config: Any = resolved.recipe
    if not config.push.of_rows:
        return _push_model(config, token, progress, scores=scores, dry_run=dry_run)
    if scores is not None:
        raise CirillaError(f"--scores is {scores}: a data set has none", hint="leave it out")
    return _push_rows(config.push, token, progress, dry_run=dry_run)


def _push_model(recipe: Any, token: Any, progress: Progress, *, scores: Path | None, dry_run: bool) -> Any:
    """A model in a folder, or on the Hub."""
    from cirilla_cli.hub.run import plan_files
    from cirilla_cli.hub.run import push as area

    config = recipe.push
    if config.to is None:
        raise CirillaError(
            "`push.to` is missing: where to?", hint="--to dir:PATH for a local folder, --to OWNER/NAME for the Hub"
        )
    if config.to.startswith("dir:") and not dry_run:
        check_place(Path(config.to.removeprefix("dir:")), "push.to")
    loaded = load_any(config.model, recipe.device, "float32", progress)
    scores = scores or config.scores
    if dry_run:
        return plan_files(config, loaded, scores=scores)
    with naming(Path(config.to.removeprefix("dir:"))):
        return area(config, loaded, scores=scores, token=token, progress=progress)


def _push_rows(config: Any, token: Any, progress: Progress, *, dry_run: bool) -> Any:
    """Rows as a data set on the Hub."""
    from cirilla_cli.curate.publish import publish
    from cirilla_cli.hub.datasets import Address
    from cirilla_cli.hub.upload import Place

    address = Address.read(Path(config.to))
    if address.revision or address.files:
        raise CirillaError(
            f"`push.to` is {config.to}: a data set is published whole", hint=f"--to hf://datasets/{address.name}"
        )
    if config.model is None:
        raise CirillaError("no rows are named", hint=f"cirilla push FILE.jsonl --to hf://datasets/{address.name}")
    place = Place(address.name, config.private, config.message, token, kind="dataset")
    return publish(Path(config.model), place, progress, dry_run=dry_run)


_RUNNERS: Mapping[str, Any] = {
    "scrape": scrape, "synth": synth, "curate": curate, "tokenize": tokenize, "pretrain": train, "sft": train,
    "dpo": train, "eval": evaluate, "generate": generate, "push": push,
}  # fmt: skip
"""The function behind each verb."""


def run(resolved: Resolved, progress: Progress, control: Control) -> Any:
    """Do what the recipe's verb does; returns the report of its area."""
    with naming(Path(resolved.out)):
        return _RUNNERS[resolved.verb](resolved, progress, control)


_OWN: Mapping[str, tuple[str, ...]] = {
    "scrape": ("documents.jsonl", "rejects.jsonl", "journal.jsonl", "raw", "ATTRIBUTION.md"),
    "synth": ("samples.jsonl", "questions.jsonl", "journal.jsonl", "judge.jsonl"),
    "curate": ("report.json",),  # without which its rows are made anew, and replaced when they are
    "tokenize": ("tokenizer", "shards", "report.json"),
}  # fmt: skip


def forget(resolved: Resolved) -> None:
    """Remove what a data or training verb left in the recipe's `out`, and nothing else."""
    import shutil

    from cirilla_cli.held import held
    from cirilla_cli.scrape.earlier import earlier

    if resolved.verb in ("pretrain", "sft", "dpo"):
        from cirilla_cli.engine.run import forget as area

        area(Path(resolved.out))
    folder = Path(resolved.out)
    if folder.suffix == ".jsonl" and resolved.verb in ("scrape", "synth"):
        # The rows are replaced when new ones are whole; the rest lies in FILE.scrape or FILE.synth.
        folder = folder.with_name(f"{folder.stem}.{resolved.verb}")
    names = _OWN.get(resolved.verb, ())
    if not names or not folder.is_dir():
        return
    source = resolved.data.get("scrape", {}).get("source", {})
    if source.get("kind") == "scraped" and earlier(Path(source["path"])).side.samefile(folder):
        raise CirillaError(
            f"{folder}: keeps what the rows are to be made from, and would be emptied first",
            hint="leave out --fresh; in a pipeline give the stage a folder of its own",
        )
    with held(folder):
        for path in (folder / name for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
