"""The kinds of products that a walk counts, against oneDNN's own account of the code it made."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cirilla_cli.compat import has_fast_bfloat16
from cirilla_cli.data.batches import Cut
from cirilla_cli.engine.config import CrossEntropyConfig, PrecisionConfig
from cirilla_cli.engine.footprint import footprint, made_up
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig

has_onednn = pytest.mark.skipif(
    not has_fast_bfloat16(torch.device("cpu")), reason="bfloat16 is not multiplied by oneDNN here"
)

ACCOUNT = """
import torch
from cirilla_cli.engine.walk import Ledger

def work():
    x, y = torch.ones(40, 30, dtype=torch.bfloat16), torch.ones(30, 50, dtype=torch.bfloat16)
    many, sums = x.expand(4, 40, 30).contiguous(), torch.ones(4, 40, 50, dtype=torch.bfloat16)
    for _ in range(3):
        x @ y, torch.nn.functional.linear(x, y.t().contiguous()), x[:31] @ y, x.t() @ x, many @ y.expand(4, 30, 50)
        sums.baddbmm_(many, y.expand(4, 30, 50))
        x[:9, :9] @ y[:9, :9], x.float() @ y.float()

ledger = Ledger(99, torch.device("cpu"))
with ledger:
    work()
print("walked", len(ledger.walked.products))
work()
"""


@has_onednn
def test_a_walk_meets_as_many_kinds_of_products_as_onednn_makes_code_for() -> None:
    """Six kinds, three times each; 729 multiplications and products in float32 are not oneDNN's."""
    call = [sys.executable, "-c", ACCOUNT]
    said = subprocess.run(call, capture_output=True, text=True, check=True, env={"ONEDNN_VERBOSE": "profile_create"})
    lines = said.stdout.splitlines()
    made = sum("create:cache_miss" in line and ",matmul," in line for line in lines)
    assert [line for line in lines if line.startswith("walked")] == [f"walked {made}"]
    assert made == 6


@has_onednn
def test_a_plan_has_the_code_of_products_in_bfloat16_and_experts_fill_all_places(
    tiny: ModuleType, tmp_path: Path
) -> None:
    """oneDNN keeps 1,024 programs, half a MiB each and a little more; products in float32 and a card's have none."""

    def kept(mlp: object, compute: str, kind: str) -> int:
        shape = tiny.decoder(vocab_size=512, d_model=64, n_layers=2, context_length=32, mlp=mlp)
        job = tiny.job("pretrain", tmp_path, tmp_path, model=shape, objective=CrossEntropyConfig(),
                       precision=PrecisionConfig(compute=compute))  # fmt: skip
        cut = Cut(32, 4, 4, 0, 0)
        return int(footprint(job, shape, made_up(job, cut), cut, kind).parts["kernels"])  # type: ignore[arg-type]

    dense, experts = SwiGLUConfig(d_ff=128), MoEConfig(n_experts=4, top_k=2, d_ff=64)
    assert kept(experts, "bfloat16", "cpu") == pytest.approx(1024 * 0.5 * 2**20, rel=0.06)
    assert 10 * 2**19 < kept(dense, "bfloat16", "cpu") < 100 * 2**19
    assert [kept(dense, "float32", "cpu"), kept(dense, "bfloat16", "cuda")] == [0, 0]
