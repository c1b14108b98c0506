"""A model given the ids of a tokenizer that extends its own: rows for the new ones, every other row as it was.

The row of a new id is the mean of the rows of the ids that its piece was written with before, in the embedding and in
whatever else has a row an id: a head of its own, a bias (arXiv:2402.09977, section 3.2).
"""

# Shape suffixes: V ids, N new ids.

from dataclasses import replace

import torch
from torch import Tensor

from cirilla_cli.checkpoint import Config, Found
from cirilla_cli.data.extension import Extension
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.init import empty
from cirilla_cli.progress import Progress
from cirilla_cli.units import show_count


def extends(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Whether ``tokenizer`` says that it extends that very one.

    Raises:
        CirillaError: it says so, and cannot.
    """
    said = tokenizer.extension
    if said is None or said.parent != other.hash:
        return False
    fits = said.first == other.vocab_size and tokenizer.vocab_size == said.first + len(said.spelled)
    if not fits or any(not ids or min(ids) < 0 or max(ids) >= said.first for ids in said.spelled):
        raise CirillaError(
            "the record of the extended tokenizer (extends.json) does not fit it", hint="extend it again"
        )
    return True


def widened(config: Config, tokenizer: Tokenizer) -> Config:
    """The shape with a row for every id; a table with rows to spare, as padded ones have, keeps its size."""
    wider: Config = config.changed(vocab_size=max(config.vocab_size or 0, tokenizer.vocab_size))
    return wider


def grown(base: Found[Model, Config], tokenizer: Tokenizer, progress: Progress) -> Found[Model, Config]:
    """The model that a run starts from, for a tokenizer that may extend its own; as it is where it does not."""
    if base.tokenizer is None or tokenizer.extension is None or not extends(tokenizer, base.tokenizer):
        return base
    model = with_new_rows(base.model, widened(base.config, tokenizer), tokenizer.extension)
    progress.say(
        f"the tokenizer extends that of {base.path}: {show_count(len(tokenizer.extension.spelled))} new ids, each the "
        f"mean of what its piece was written with before; the embedding goes from {base.config.vocab_size} to "
        f"{model.config.vocab_size} rows"
    )
    return replace(base, model=model, config=model.config, tokenizer=tokenizer)


def with_new_rows(model: Model, config: Config, extension: Extension) -> Model:
    """A model of ``config``, which has a row for every id of the extended tokenizer."""
    own, names = model.state_dict(), _tables(config)
    device = next(model.parameters()).device
    made: Model = empty(config, device)
    made.load_state_dict({
        name: _extended(tensor, config.vocab_size or 0, extension) if name in names else tensor
        for name, tensor in own.items()
    })  # fmt: skip
    return made.train(model.training)


def _tables(config: Config) -> set[str]:
    """Names of the tensors with a row for each id: those that grow with the vocabulary."""
    with torch.device("meta"):
        now = config.build().state_dict()
        wider = config.changed(vocab_size=(config.vocab_size or 0) + 1).build().state_dict()
    return {name for name, tensor in now.items() if tensor.shape != wider[name].shape}


def _extended(old_V: Tensor, rows: int, extension: Extension) -> Tensor:
    """A table of ``rows`` rows: the old ones, and the means of those that new pieces were written with."""
    new_V = old_V.new_zeros(rows, *old_V.shape[1:])
    new_V[: len(old_V)] = old_V
    means = [old_V[list(ids)].mean(0) for ids in extension.spelled]
    new_V[extension.first : extension.first + len(means)] = torch.stack(means)
    return new_V
