"""`cirilla eval`, `generate`, `push`: what a model is good for."""

from dataclasses import dataclass

from cirilla_cli.cli.options import Flags, Group, ModelWords, option, takes


@dataclass(frozen=True)
class Measures(Group):
    """What to measure besides what a recipe names."""

    text: list[str] | None = option(
        "--text", metavar="FILE", help="Bits per byte and perplexity of this text; may be repeated."
    )
    questions: str | None = option("--questions", metavar="FILE", help="Exact answers to this question set (.jsonl).")
    labels: str | None = option(
        "--labels", metavar="FILE", help="Accuracy and F1 of a classifier on these rows (.jsonl)."
    )


@takes("out", "device")
def evaluate(words: ModelWords = None, *, measures: Measures, flags: Flags) -> None:
    """Score a model on text, questions, labels and tasks, with confidence intervals.

    Examples: cirilla eval runs/mine-sft --text held-out.txt --json; cirilla eval runs/classifier --labels rows.jsonl
    """
    from cirilla_cli.cli.verbs import eval_verb

    eval_verb(words or [], measures.text or [], measures.questions, measures.labels, flags)


@dataclass(frozen=True)
class Prompts(Group):
    """What to continue."""

    prompt: list[str] | None = option(
        "--prompt", "-p", metavar="TEXT", help="What to continue; may be repeated. Default: lines of stdin."
    )
    prompt_file: str | None = option("--prompt-file", metavar="FILE", help="Continue each line of a file.")
    prompt_ids: str | None = option("--prompt-ids", metavar="IDS", help='Token ids to continue, as in "1 2 3".')


@dataclass(frozen=True)
class Settings(Group):
    """The keys of `generate` in a recipe that have an option of their own."""

    chat: bool | None = option("--chat", help="Put the prompt into the model's chat template.")
    system: str | None = option("--system", metavar="TEXT", help="System turn before the prompt; implies --chat.")
    max_new_tokens: int | None = option("--max-new-tokens", "-n", metavar="N", help="Longest continuation.")
    temperature: float | None = option("--temperature", "-t", metavar="X", help="0 always takes the likeliest token.")
    top_k: int | None = option("--top-k", metavar="N", help="Choose among so many likeliest tokens.")
    top_p: float | None = option("--top-p", metavar="X", help="Choose among tokens of this much probability.")
    min_p: float | None = option("--min-p", metavar="X", help="Drop tokens below this share of the likeliest.")
    stop: list[str] | None = option("--stop", metavar="TEXT", help="End at this string; may be repeated.")
    seed: int | None = option("--seed", metavar="N", help="Of the random choices.")
    dtype: str | None = option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float64.")
    ignore_eos: bool | None = option("--ignore-eos", help="Go on past end tokens.")


@takes("device")
def generate(words: ModelWords = None, *, prompts: Prompts, settings: Settings, flags: Flags) -> None:
    """Continue prompts, streamed to stdout; a classifier names labels, an encoder fills in <mask>.

    Examples: cirilla generate --chat --prompt "Who is Geralt?"; cirilla generate runs/mine-sft --json < prompts.txt
    """
    from cirilla_cli.cli.verbs import generate_verb

    chat = {"chat": True} if settings.system else {}
    asked = prompts.prompt or [], prompts.prompt_file, prompts.prompt_ids
    generate_verb(words or [], *asked, settings.given() | chat, flags)


@dataclass(frozen=True)
class Target(Group):
    """Where a model goes, and what its card says."""

    to: str | None = option(
        "--to", metavar="WHERE", help="dir:PATH, OWNER/NAME on the Hub, or for rows hf://datasets/OWNER/NAME."
    )
    scores: str | None = option(
        "--scores", metavar="FILE", help="scores.json for the card; default: the newest of the run."
    )


@takes("device")
def push(words: ModelWords = None, *, target: Target, flags: Flags) -> None:
    """Publish a model in the Hugging Face layout, checked by loading it back; or rows as a data set on the Hub.

    Examples: cirilla push runs/mine-dpo --to dir:export; cirilla push curated --to hf://datasets/me/witcher
    """
    from cirilla_cli.cli.verbs import push_verb

    push_verb(words or [], target.to, target.scores, flags)


COMMANDS = {"eval": evaluate, "generate": generate, "push": push}
