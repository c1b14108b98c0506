"""`cirilla eval`, `generate`, `push`: what a model is good for."""

from typing import Annotated

import typer

from cirilla_cli.cli.options import Device, DryRun, Json, ModelWords, Out, Quiet, Verbose


def evaluate(
    words: ModelWords = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="Bits per byte and perplexity of this text; may be repeated."),
    ] = None,
    questions: Annotated[
        str | None, typer.Option("--questions", metavar="FILE", help="Exact answers to this question set (.jsonl).")
    ] = None,
    out: Out = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
) -> None:
    """Score a model on text, questions and tasks, with confidence intervals.

    Example: cirilla eval runs/mine-sft --text held-out.txt --json
    """
    from cirilla_cli.cli.verbs import Flags, eval_verb

    flags = Flags(out=out, device=device, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run)
    eval_verb(words or [], text or [], questions, flags)


def generate(
    words: ModelWords = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="What to continue; may be repeated. Default: lines of stdin."
        ),
    ] = None,
    prompt_file: Annotated[
        str | None, typer.Option("--prompt-file", metavar="FILE", help="Continue each line of a file.")
    ] = None,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="IDS", help='Token ids to continue, as in "1 2 3".')
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System turn before the prompt; implies --chat.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "-n", metavar="N", help="Longest continuation.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", metavar="X", help="0 always takes the likeliest token.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="N", help="Choose among so many likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", metavar="X", help="Choose among tokens of this much probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option("--min-p", metavar="X", help="Drop tokens below this share of the likeliest.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End at this string; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the random choices.")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float64.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past end tokens.")] = False,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
) -> None:
    """Continue prompts, streamed to stdout.

    Examples: cirilla generate --chat --prompt "Who is Geralt?"; cirilla generate runs/mine-sft --json < prompts.txt
    """
    from cirilla_cli.cli.verbs import Flags, generate_verb

    flags = Flags(device=device, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run)
    given = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "stop": stop, "seed": seed, "dtype": dtype, "system": system, "chat": True if chat or system else None,
        "ignore_eos": True if ignore_eos else None,
    }  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    generate_verb(words or [], prompt or [], prompt_file, prompt_ids, settings, flags)


def push(
    words: ModelWords = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="WHERE", help="dir:PATH for a local folder, or OWNER/NAME on the Hub.")
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option("--scores", metavar="FILE", help="scores.json for the card; default: the newest of the run."),
    ] = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a model in the Hugging Face layout, checked by loading it back.

    Example: cirilla push runs/mine-dpo --to dir:export
    """
    from cirilla_cli.cli.verbs import Flags, push_verb

    push_verb(words or [], to, scores, Flags(device=device, json=json_, quiet=quiet, verbose=verbose, dry_run=dry_run))
