"""A vector for each text, from an encoder: for search, comparison, and whatever is trained on top.

    python examples/vectors.py MODEL "The wolf is grey." "A grey wolf."

MODEL is an encoder that `cirilla pretrain` trained, or a ModernBERT of the Hub. Prints how alike the texts are.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from cirilla_cli.loading import load_any
from cirilla_cli.model.encoder import Encoder
from cirilla_cli.model.layout import SequenceLayout


def read(model: str, texts: Sequence[str]) -> tuple[Encoder, Tensor, SequenceLayout]:
    """An encoder, and texts as it reads them: one row of tokens ``[1, T]``, in which no text sees another."""
    loaded = load_any(model)
    assert isinstance(loaded.model, Encoder), "an encoder is wanted"
    assert loaded.tokenizer is not None
    documents = [loaded.tokenizer.document(loaded.tokenizer.encode(text)) for text in texts]
    numbers = [number for number, document in enumerate(documents) for _ in document]
    tokens = torch.tensor([sum(documents, [])])
    return loaded.model, tokens, SequenceLayout.packed(torch.tensor([numbers]))


@torch.inference_mode()
def main(model: str, *texts: str) -> Tensor:
    """Print the cosine of each pair of texts; returns the vectors, one a text."""
    encoder, tokens_1T, layout = read(model, texts)
    by_token = encoder.states(tokens_1T, layout)  # [1, T, D]: a vector for each token
    by_first = encoder.vectors(tokens_1T, layout, "first")  # [P, D]: what stands at <s>, BERT's [CLS]
    by_mean = encoder.vectors(tokens_1T, layout)  # [P, D]: the mean of a text's tokens
    print(f"{by_token.shape[1]} tokens, vectors of {by_first.shape[1]} numbers")
    unit = torch.nn.functional.normalize(by_mean, dim=1)
    for text, row in zip(texts, unit @ unit.T, strict=True):
        print(" ".join(f"{cosine:6.3f}" for cosine in row.tolist()), text)
    return by_mean


if __name__ == "__main__":
    main(*sys.argv[1:])
