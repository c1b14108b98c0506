"""Pooling, values and the loss of labels by hand and by torch."""

# oracle: pooling mean first last: test_pooling_takes_each_document_by_itself

import pytest
import torch

from cirilla_cli.model.config import Pooling
from cirilla_cli.model.heads import LabelLoss, ValueHead, pool
from cirilla_cli.model.layout import SequenceLayout

from .test_model_encoder import EXACT, D, T, three_documents


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_takes_each_document_by_itself(pooling: Pooling) -> None:
    documents, rows, layout = three_documents()
    hidden = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = [hidden[layout.documents_BT == number] for number in range(len(documents))]
    taken = {"mean": lambda part: part.mean(dim=0), "first": lambda part: part[0], "last": lambda part: part[-1]}
    expected = torch.stack([taken[pooling](part) for part in parts])
    torch.testing.assert_close(pool(hidden, layout, pooling), expected, rtol=0, atol=EXACT)
    whole = pool(hidden, SequenceLayout.rows(2, T), pooling)
    torch.testing.assert_close(whole, torch.stack([taken[pooling](row) for row in hidden]), rtol=0, atol=EXACT)


def test_a_value_is_a_product_for_each_position() -> None:
    head, hidden = ValueHead(D).double(), torch.randn(2, T, D, dtype=torch.float64)
    expected = (hidden * head.value.weight[0]).sum(-1) + head.value.bias
    torch.testing.assert_close(head(hidden), expected, rtol=0, atol=EXACT)


def test_the_label_loss_is_torchs() -> None:
    hidden, head = torch.randn(1, 7, D, dtype=torch.float64), torch.randn(5, D, dtype=torch.float64)
    labels = torch.randint(5, (7,))
    sums, scores = LabelLoss(labels)(hidden, head), hidden[0] @ head.T
    expected = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
    smooth = torch.nn.functional.cross_entropy(scores, labels, reduction="sum", label_smoothing=0.3)
    torch.testing.assert_close(sums.nll, expected, rtol=0, atol=EXACT)
    torch.testing.assert_close(0.7 * sums.nll + 0.3 * sums.uniform, smooth, rtol=0, atol=EXACT)
    assert int(sums.correct) == int((scores.argmax(1) == labels).sum())
