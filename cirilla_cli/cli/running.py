"""`cirilla run`: a pipeline, its estimate at the start and its summary at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cirilla_cli.cli.options import Flags
from cirilla_cli.cli.pipeline import PipelineReport, Stage, resolve_stages, run_pipeline
from cirilla_cli.cli.places import check_out
from cirilla_cli.cli.render import progress_for, show_json
from cirilla_cli.cli.words import read_words
from cirilla_cli.data.jsonl import Complaints, read_rows
from cirilla_cli.errors import CirillaError
from cirilla_cli.held import held
from cirilla_cli.recipe.load import Resolved, load_recipe
from cirilla_cli.units import show_bytes, show_seconds


def run_verb(words: Sequence[str], flags: Flags) -> None:
    """Resolve every stage before the first runs, then run, then sum up."""
    reading = read_words(words, "run")
    if reading.inputs:
        raise CirillaError(
            f"`{reading.inputs[0]}` is not a pipeline", hint="cirilla run quickstart, or cirilla run pipeline.yaml"
        )
    if reading.recipe is None:
        raise CirillaError("which pipeline?", hint="cirilla run quickstart; cirilla recipe list")
    pipeline = load_recipe(reading.recipe, "run", overrides=reading.overrides, out=flags.out)
    stages = resolve_stages(pipeline)
    for stage in stages:
        check_out(stage.resolved)
    if flags.dry_run:
        _show_stages(stages, flags)
        return
    with progress_for(quiet=flags.quiet or flags.json, verbose=flags.verbose) as progress:
        for line in _estimate(pipeline):
            progress.say(line)
        with held(Path(pipeline.out)):
            report = run_pipeline(pipeline, progress, fresh=flags.fresh)
    if flags.json:
        show_json(report)
    else:
        print(summary(report, pipeline, stages))


def _show_stages(stages: list[Stage], flags: Flags) -> None:
    if flags.json:
        show_json({stage.name: stage.resolved.data for stage in stages})
        return
    for stage in stages:
        print(f"{stage.name}: cirilla {stage.verb} {stage.resolved.path} -> {stage.resolved.out}")


def _estimate(pipeline: Resolved) -> list[str]:
    """What the pipeline is and how long it takes here, from its reference time and this machine's matrix products."""
    recipe: Any = pipeline.recipe
    lines = [" ".join(recipe.about.split())] if recipe.about else []
    if recipe.reference is None:
        return lines
    import torch

    from cirilla_cli.engine.metrics import matmul_rate

    rate = matmul_rate(torch.device("cpu"), torch.float32)
    seconds = recipe.reference.seconds * max(1.0, recipe.reference.gflops * 1e9 / rate)
    return [
        *lines,
        f"about {show_seconds(seconds)} on this machine ({rate / 1e9:.0f} GFLOP/s); results in {pipeline.out}",
    ]


def summary(report: PipelineReport, pipeline: Resolved, stages: list[Stage]) -> str:
    """What happened, for somebody who sees it for the first time."""
    parts = ["", _curves(stages), _scores(report), _answers(stages), _places(report, stages), _next(report)]
    skipped = sum(bool(stage["skipped"]) for stage in report.stages.values())
    memory = f", {show_bytes(report.peak_memory_bytes)} of memory at most" if report.peak_memory_bytes else ""
    head = f"{pipeline.name}: {len(report.stages)} stages in {show_seconds(report.seconds)}{memory}"
    parts[0] = head + (f" ({skipped} were up to date)" if skipped else "")
    return "\n\n".join(part for part in parts if part)


def _curves(stages: list[Stage]) -> str:
    from cirilla_cli.engine.metrics import read_metrics, sparkline

    lines = []
    for stage in stages:
        losses = [m["loss"] for m in read_metrics(Path(stage.resolved.out)) if "loss" in m]
        if losses:
            lines.append(f"  {stage.name:<10} {sparkline(losses)}  {losses[0]:.2f} -> {losses[-1]:.2f}")
    return "Training loss, first step to last\n" + "\n".join(lines) if lines else ""


def _scores(report: PipelineReport) -> str:
    names = {
        "seen_facts": "wiki facts answered, in a phrasing it was trained on",
        "seen_facts_rephrased": "the same facts, in a phrasing it never saw",
        "seen_facts_untrained": "the same model before any training",
        "preference_chosen_above": "held-out pairs with the right answer likelier",
    }
    lines = []
    for key, text in names.items():
        value = report.scores.get(key)
        if isinstance(value, dict):
            lines.append(f"  {value['before']:.0%} -> {value['after']:.0%}  {text} (before and after DPO)")
        elif value is not None:
            lines.append(f"  {value:>6.1%}  {text}")
    for task, value in report.scores.get("unseen_tasks", {}).items():
        lines.append(f"  {value:>6.1%}  {task}, problems it never saw")
    return "Scores\n" + "\n".join(lines) if lines else ""


def _answers(stages: list[Stage], most: int = 3) -> str:
    for stage in stages:
        path = Path(stage.resolved.out) / "answers.jsonl"
        if stage.verb == "generate" and path.is_file():
            rows = [row.data for row in read_rows(path, Complaints())][:most]
            said = [(row["prompt"], row["text"] if "text" in row else row["label"]) for row in rows]
            lines = [f"  {' '.join(prompt.split())}\n  > {' '.join(answer.split())}" for prompt, answer in said]
            return "Three questions\n" + "\n".join(lines)
    return ""


def _places(report: PipelineReport, stages: list[Stage]) -> str:
    lines = [f"  {stage.name:<10} {stage.resolved.out}" for stage in stages]
    if report.model:
        lines.append(f"  {'model':<10} {report.model}")
    return "Where everything lies\n" + "\n".join(lines)


def _next(report: PipelineReport) -> str:
    if not report.model:
        return ""
    return (
        "Next\n"
        f'  cirilla generate {report.model} --chat --prompt "Who is Geralt of Rivia?"\n'
        f"  ollama create my-witcher -f {report.model}/Modelfile && ollama run my-witcher\n"
        "  cirilla init mywiki --dump YOUR-WIKI.xml    the same with a wiki of your own"
    )
