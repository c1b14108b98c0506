"""What only a CUDA device can show; skipped where there is none."""

import pytest
import torch

from cirilla_cli.model.config import AttentionConfig, DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
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
