"""The kinds of products that a walk counts, against oneDNN's own account of the code it made."""

import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cirilla_cli.compat import has_fast_bfloat16
from cirilla_cli.data.batches import Cut
from cirilla_cli.engine.config import CrossEntropyConfig, PrecisionConfig, TrainConfig
from cirilla_cli.engine.footprint import distinct, footprint, made_up
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


EXPERTS = """
import sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from cirilla_cli.engine.walk import Ledger
from cirilla_cli.model.ops.grouped import experts_sorted
from cirilla_cli.model.ops.padded import experts_padded

compute = {"sorted": experts_sorted, "padded": experts_padded}[sys.argv[1]]
torch.manual_seed(0)

def work(router_DE):
    x, gate_up, down = (
        torch.randn(shape).bfloat16().requires_grad_() for shape in ((600, 64), (4, 256, 64), (4, 64, 128))
    )
    chosen = (torch.randn(600, 64) @ router_DE).topk(2)
    compute(x, chosen.indices, chosen.values.softmax(-1), gate_up, down).float().sum().backward()

ledger = Ledger(99, torch.device("cpu"))
with ledger:
    weights = [torch.zeros(shape, dtype=torch.bfloat16).requires_grad_() for shape in ((4, 256, 64), (4, 64, 128))]
    ledger.label(weights, "parameters")
    x = torch.zeros(600, 64, dtype=torch.bfloat16).requires_grad_()
    chosen = torch.arange(1200).view(600, 2) % 4
    compute(x, chosen, torch.zeros(600, 2), *weights).float().sum().backward()
print("walked", ledger.walked.routed)
for _ in range(3):
    work(torch.randn(64, 4))
"""


@has_onednn
@pytest.mark.parametrize("way", ["sorted", "padded"])
def test_experts_are_given_no_more_kinds_than_they_are_given_products(way: str) -> None:
    """Four experts, two products each and four on the way back, are 24 a pass; three passes make no more than 72."""
    call = [sys.executable, "-c", EXPERTS, way]
    said = subprocess.run(call, capture_output=True, text=True, check=True, env={"ONEDNN_VERBOSE": "profile_create"})
    lines = said.stdout.splitlines()
    made = sum("create:cache_miss" in line and ",matmul," in line for line in lines)
    assert [line for line in lines if line.startswith("walked")] == ["walked 24"]
    assert 12 < made <= 3 * 24


@pytest.mark.parametrize(
    ("draws", "mean", "spread"), [(24, 32.0, 1.1), (192, 128.0, 1.1), (3000, 64.0, 1.1), (288, 128.0, 9.7)]
)
def test_unlike_numbers_of_tokens_are_as_many_as_drawing_them_gives(draws: int, mean: float, spread: float) -> None:
    """Numbers below one are none."""
    rng = random.Random(0)
    found = [{round(rng.gauss(mean, spread * mean**0.5)) for _ in range(draws)} for _ in range(300)]
    assert distinct(draws, mean, spread) == pytest.approx(sum(n > 0 for f in found for n in f) / 300, rel=0.02)


@has_onednn
def test_a_plan_has_the_code_of_products_in_bfloat16_and_experts_fill_all_places_in_time(
    tiny: ModuleType, tmp_path: Path
) -> None:
    """oneDNN keeps 1,024 programs, half a MiB each and a little more; products in float32 and a card's have none.

    Two layers of four experts make 48 products in a pass; a run whose length is not known may fill all places.
    """

    def kept(mlp: object, compute: str, kind: str, **train: Any) -> float:
        shape = tiny.decoder(vocab_size=512, d_model=64, n_layers=2, context_length=32, mlp=mlp)
        job = tiny.job(
            "pretrain", tmp_path, tmp_path, model=shape, objective=CrossEntropyConfig(),
            precision=PrecisionConfig(compute=compute), train=TrainConfig(batch_tokens=256, **train),
        )  # fmt: skip
        cut = Cut(32, 4, 4, 0, 0)
        return footprint(job, shape, made_up(job, cut), cut, kind).parts["kernels"] / 2**19  # type: ignore[arg-type]

    dense, experts = SwiGLUConfig(d_ff=128), MoEConfig(n_experts=4, top_k=2, d_ff=64)
    for length in ({"steps": 1000}, {"epochs": 1.0}):
        assert kept(experts, "bfloat16", "cpu", **length) == pytest.approx(1024, rel=0.06)
    more = kept(experts, "bfloat16", "cpu", steps=9) - kept(experts, "bfloat16", "cpu", steps=1)
    assert more == pytest.approx(6 * (distinct(9 * 8, 64, 9.7) - distinct(8, 64, 9.7)), rel=0.08)
    assert kept(experts, "bfloat16", "cpu", tokens=3 * 128) == kept(experts, "bfloat16", "cpu", steps=3)
    assert 10 < kept(dense, "bfloat16", "cpu", steps=1000) < 100
    assert [kept(dense, "float32", "cpu", steps=9), kept(dense, "bfloat16", "cuda", steps=9)] == [0, 0]
