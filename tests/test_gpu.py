"""What only a CUDA device can show; skipped where there is none."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.heads import pool
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import Needs, SequenceLayout, Sight
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.ops.attention import attend, attend_reference
from cirilla_cli.model.ops.fold import Fold
from cirilla_cli.model.readout import LastLogits, TokenLoss
from cirilla_cli.model.sections import SwiGLUConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CONFIG = DecoderConfig(
    vocab_size=97,
    d_model=64,
    n_layers=2,
    context_length=64,
    mixers={"A": AttentionConfig(n_heads=4, n_kv_heads=2, qk_norm=True), "L": AttentionConfig(n_heads=4, window=7)},
    pattern="AL",
    mlp=SwiGLUConfig(d_ff=128),
)


def test_packed_rows_give_the_same_loss_as_on_the_cpu() -> None:
    tokens = torch.randint(97, (2, 64), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(64) // 20).expand(2, 64)
    losses = [
        fresh(CONFIG, seed=0, device=device)(
            tokens.to(device), SequenceLayout.packed(documents.to(device)), readout=TokenLoss(tokens.to(device))
        ).nll.item()
        for device in ("cpu", "cuda")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@torch.inference_mode()
def test_cached_decoding_equals_the_full_pass() -> None:
    model = fresh(CONFIG, seed=0, device="cuda")
    tokens = torch.randint(97, (1, 24), device="cuda")
    full = model(tokens, SequenceLayout.rows(1, 24, device="cuda"), readout=LastLogits(24))
    caches = model.make_caches(24)
    steps = [
        model(tokens[:, t : t + 1], SequenceLayout.rows(1, 1, start=t, device="cuda"), caches, readout=LastLogits())
        for t in range(24)
    ]
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=0, atol=1e-4)


def test_the_mean_of_a_long_document_is_not_rounded_away() -> None:
    """In bfloat16 256 + 1 is 256: a sum that is rounded at every addition stands still there."""
    hidden = torch.ones(1, 2048, 8, dtype=torch.bfloat16, device="cuda")
    assert torch.equal(pool(hidden, SequenceLayout.rows(1, 2048, device="cuda"), "mean"), hidden[0, :1])


ROWS = {
    "one document": lambda: SequenceLayout.rows(2, 300, device="cuda"),
    "packed": lambda: SequenceLayout.packed((torch.arange(300, device="cuda") // 110).expand(2, 300)),
    "prefix": lambda: dataclasses.replace(
        SequenceLayout.rows(2, 300, device="cuda"), prefix_BT=(torch.arange(300, device="cuda") < 140).expand(2, 300)
    ),
}
SIGHTS = {"causal": Sight(), "window": Sight(True, 50), "both ways": Sight(False), "window both ways": Sight(False, 50)}


@pytest.fixture
def _compiled_anew() -> Iterator[None]:
    """More shapes and rules than a training run has would be too many for what the compiler keeps."""
    yield
    torch._dynamo.reset()


def queries_keys_values(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 300, 4, 32), (2, 300, 2, 32), (2, 300, 2, 32))
    return [torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_() for shape in shapes]


@pytest.mark.usefixtures("_compiled_anew")
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
@pytest.mark.parametrize("rows", ROWS)
def test_training_attention_equals_the_reference_and_its_gradients(
    rows: str, sight: Sight, dtype: torch.dtype, atol: float, softcap: float | None
) -> None:
    """Blocks where there is a rule beside causality, kernels else; the reference in float64 from the same numbers."""
    layout, found = ROWS[rows](), []
    capped = frozenset({sight}) if softcap else frozenset()
    at = layout.prepared(Needs(frozenset(), frozenset({sight}), capped), dtype)
    wants_blocks = softcap is not None or not layout.needs_no_mask(sight)
    assert isinstance(at.masks.get(sight), BlockMask) == wants_blocks
    for double, attention in ((False, attend), (True, attend_reference)):
        given = [x.detach().double() if double else x.detach() for x in queries_keys_values(dtype)]
        leaves = [x.requires_grad_() for x in given]
        out = attention(*leaves, at, at, sight, softcap=softcap)
        found.append([x.double() for x in (out.detach(), *torch.autograd.grad(out.square().sum(), leaves))])
    torch.testing.assert_close(*found, rtol=5e-2 if dtype == torch.bfloat16 else 1e-3, atol=atol)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
@torch.no_grad()
def test_attention_without_gradient_equals_the_reference(rows: str, sight: Sight) -> None:
    layout, (q, k, v) = ROWS[rows](), queries_keys_values(torch.float32)
    at = layout.prepared(Needs(frozenset(), frozenset({sight})), torch.float32)
    expected = attend_reference(q.double(), k.double(), v.double(), at, at, sight)
    torch.testing.assert_close(attend(q, k, v, at, at, sight).double(), expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_long_window_is_taken_apart_instead_of_masked() -> None:
    layout, sight = SequenceLayout.rows(1, 4096, device="cuda"), Sight(True, 256)
    at = layout.prepared(Needs(frozenset(), frozenset({sight})), torch.bfloat16)
    assert isinstance(at.masks[sight], Fold)
    q, k, v = (torch.randn(1, 4096, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    expected = attend_reference(q.float(), k.float(), v.float(), at, at, sight)
    torch.testing.assert_close(attend(q, k, v, at, at, sight).float(), expected, rtol=0, atol=5e-2)
