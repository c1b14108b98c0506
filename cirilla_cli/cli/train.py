"""`cirilla pretrain`, `sft`, `dpo`: one recipe language, one engine, different data and objectives."""

from collections.abc import Callable

from cirilla_cli.cli.options import Flags, Words, takes


def _command(verb: str, about: str) -> Callable[..., None]:
    """A training verb: all of them take the same words and options."""

    def command(words: Words = None, *, flags: Flags) -> None:
        from cirilla_cli.cli.verbs import train_verb

        train_verb(verb, words or [], flags)

    command.__doc__ = about
    return takes("out", "device", "fresh", "resume", "verify_resume", "nproc")(command)


pretrain = _command(
    "pretrain",
    """Train a model on running text, from scratch or from a checkpoint.

    Example: cirilla pretrain recipe.yaml train.tokens=50M optim.lr=3e-4
    """,
)
sft = _command(
    "sft",
    """Fine-tune a model on conversations; the assistant's turns are learned.

    Example: cirilla sft recipe.yaml samples.jsonl model.path=runs/mine-pretrain
    """,
)
dpo = _command(
    "dpo",
    """Align a model with pairs of a better and a worse answer.

    Example: cirilla dpo recipe.yaml samples.jsonl objective.beta=0.1
    """,
)


COMMANDS = {"pretrain": pretrain, "sft": sft, "dpo": dpo}
