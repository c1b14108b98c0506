"""A classifier under examination."""

from collections.abc import Sequence

from cirilla_cli.checkpoint import AnyFound
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Verdict
from cirilla_cli.infer.prompt import Prompt
from cirilla_cli.infer.readers import classify
from cirilla_cli.model.config import ClassifierConfig


class ModelJudge:
    """A loaded classifier that reads each text as in training: framed as a document, cut to the context.

    Raises:
        CirillaError: the model is no classifier, or has no tokenizer.
    """

    def __init__(self, found: AnyFound, batch: int = 32) -> None:
        if not isinstance(found.config, ClassifierConfig):
            raise CirillaError(f"{found.path}: this model is of kind {found.config.kind}, which names no labels")
        if found.tokenizer is None:
            raise CirillaError(f"{found.path}: no tokenizer in this folder, so no text can be read")
        self.labels: tuple[str, ...] = found.config.labels
        self._found, self._tokenizer, self._batch = found, found.tokenizer, batch

    def verdicts(self, texts: Sequence[str]) -> list[Verdict]:
        """What it makes of each text; texts of similar length are read together, so that little is padded."""
        whole = [self._tokenizer.document(ids) for ids in self._tokenizer.encode_batch(texts).lists()]
        most = self._found.config.context_length
        order = sorted(range(len(whole)), key=lambda i: -len(whole[i]))
        prompts = [Prompt(ids=tuple(whole[i][:most])) for i in order]
        found = zip(order, classify(self._found, prompts, batch=self._batch), strict=True)
        by_place = {i: Verdict(said.label, said.probabilities, len(whole[i]) <= most) for i, said in found}
        return [by_place[i] for i in range(len(texts))]
