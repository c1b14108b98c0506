"""AdamW with averages in 8 bits: against the definition in loops, torchao's own, and AdamW; and what is kept of it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cirilla_cli.engine.build import trainer_of
from cirilla_cli.engine.config import (
    AdamW8bitConfig,
    AdamWConfig,
    CheckpointingConfig,
    CrossEntropyConfig,
    FSDPConfig,
    MemoryConfig,
    TrainConfig,
)
from cirilla_cli.engine.optim.adamw_8bit import state_bytes
from cirilla_cli.engine.optim.codes import Codebook, dynamic_map
from cirilla_cli.engine.room import checkpoint_bytes
from cirilla_cli.engine.run import TrainReport, train
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Silent

CPU = torch.device("cpu")
CONFIG = AdamW8bitConfig(lr=3e-2, beta1=0.8, beta2=0.9, weight_decay=0.2)


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_the_nearest_value(signed: bool) -> None:
    """By trying all 256, in float64: random numbers of every size, values themselves, and what lies between two."""
    values = np.array(dynamic_map(signed=signed), dtype=np.float32)
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(60_000, generator=generator) * 10 ** (-8 * torch.rand(60_000, generator=generator))
    between = torch.from_numpy(((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32))
    near = [between, torch.nextafter(between, torch.tensor(2.0)), torch.nextafter(between, torch.tensor(-2.0))]
    numbers = torch.cat([random, -random if signed else random, torch.from_numpy(values), *near])
    numbers = torch.nn.functional.pad(numbers, (0, -len(numbers) % 256)).view(-1, 256)
    numbers[:, 0] = 1.0
    coded = Codebook(CPU, signed=signed).encode(numbers)
    found = values[coded.codes_KQ.flatten().numpy()].astype(np.float64)
    exact = numbers.flatten().numpy().astype(np.float64)
    away = np.abs(exact[:, None] - values.astype(np.float64)[None]).min(1)
    # Middles are rounded to float32: a number that lies between two may go to either.
    np.testing.assert_allclose(np.abs(exact - found), away, rtol=0, atol=1e-7)
    assert torch.equal(coded.scales_K, torch.ones(len(numbers)))


def test_the_map_has_the_values_of_the_paper() -> None:
    """Figure by hand: the parts of the uppermost decade, the one value of the lowest, and both ends."""
    signed, unsigned = dynamic_map(signed=True), dynamic_map(signed=False)
    assert len(signed) == len(unsigned) == 256
    assert signed == sorted(set(signed))
    assert unsigned == sorted(set(unsigned))
    assert (signed[0], signed[127], signed[-1]) == (pytest.approx(-0.99296875), 0.0, 1.0)
    assert signed[128] == pytest.approx(0.55e-6)
    assert sum(0.1 < value < 1 for value in signed) == 64
    assert sum(0.1 < value < 1 for value in unsigned) == 128
    assert unsigned[:3] == [0.0, pytest.approx(0.325e-6), pytest.approx(0.775e-6)]


def loops(weights: Tensor, gradients: list[Tensor], lr: float, decay: float) -> np.ndarray[Any, Any]:
    """The update number by number, the averages stored as the nearest value times the block's largest, in float64."""
    maps = [np.array(dynamic_map(signed=signed)) for signed in (True, False)]
    w = weights.flatten().double().numpy().copy()
    kept = [np.zeros_like(w), np.zeros_like(w)]
    for step, gradient in enumerate(gradients, start=1):
        g = gradient.flatten().double().numpy()
        for i, (beta, part) in enumerate(((0.8, g), (0.9, g * g))):
            kept[i] = beta * kept[i] + (1 - beta) * part
        w *= 1 - lr * decay
        w -= lr * (kept[0] / (1 - 0.8**step)) / (np.sqrt(kept[1] / (1 - 0.9**step)) + 1e-8)
        for i, values in enumerate(maps):
            for first in range(0, len(w), 256):
                block = kept[i][first : first + 256]
                scale = np.abs(block).max()
                nearest = np.abs(block[:, None] / scale - values[None]).argmin(1)
                kept[i][first : first + 256] = values[nearest] * scale
    return w


def moved(weights: Tensor, gradients: list[Tensor], config: Any = CONFIG) -> tuple[nn.Parameter, Any]:
    parameter = nn.Parameter(weights.clone())
    optimizer = config.build(nn.ParameterList([parameter]))
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter, optimizer.state[parameter]


def some(shape: tuple[int, ...], steps: int) -> tuple[Tensor, list[Tensor]]:
    """Weights, and gradients whose rows differ a thousandfold in size."""
    generator = torch.Generator().manual_seed(3)
    sizes = 10 ** (-3 * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator))
    return torch.randn(shape, generator=generator), [
        sizes * torch.randn(shape, generator=generator) for _ in range(steps)
    ]


@pytest.mark.parametrize("shape", [(64, 70), (4109,), (3, 40, 41)])
def test_it_moves_as_the_definition_in_loops(shape: tuple[int, ...]) -> None:
    """Sizes of which 256 is no divisor too. A code may go either way in float32 where two are as near: one in 500."""
    weights, gradients = some(shape, 4)
    found, state = moved(weights, gradients)
    expected = loops(weights, gradients, 3e-2, 0.2 if len(shape) > 1 else 0.0)
    away = np.abs(found.detach().flatten().double().numpy() - expected)
    assert np.quantile(away, 0.998) < 1e-6
    assert away.max() < 3e-2
    assert state["exp_avg_codes"].dtype == state["exp_avg_sq_codes"].dtype == torch.uint8
    assert sum(t.numel() * t.element_size() for t in state.values()) == state_bytes(weights.numel()) + 4


def test_it_moves_as_torchaos() -> None:
    """Its arithmetic uncompiled, on a size that it takes, as `torchao_adamw_8bit.py` wrote it down."""
    theirs = json.loads(Path(__file__).with_name("torchao_adamw_8bit.json").read_text(encoding="utf-8"))
    for signed, name in ((True, "exp_avg"), (False, "exp_avg_sq")):
        assert theirs[name]["map"] == pytest.approx(dynamic_map(signed=signed), rel=1e-6)
    weights, gradients = some((64, 128), 6)
    ours, state = moved(weights, gradients)
    moves = torch.tensor(theirs["moved"])
    away = ((ours.detach() - weights).flatten() - moves).abs()
    # Moves of up to 0.2 are written down in millionths.
    assert float(away.quantile(0.998)) < 2e-6
    assert float(moves.abs().mean()) > 0.05
    for name in ("exp_avg", "exp_avg_sq"):
        codes = torch.frombuffer(bytearray.fromhex(theirs[name]["codes"]), dtype=torch.uint8)
        assert float((state[f"{name}_codes"].flatten() == codes).float().mean()) > 0.998
        torch.testing.assert_close(state[f"{name}_scales"], torch.tensor(theirs[name]["scales"]), rtol=1e-5, atol=0)


def test_small_parameters_move_as_adamws() -> None:
    weights, gradients = some((40,), 5)
    ours, state = moved(weights, gradients)
    theirs, _ = moved(weights, gradients, AdamWConfig(**CONFIG.model_dump(exclude={"kind"})))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert state["exp_avg"].dtype == torch.float32


def test_it_follows_adamw() -> None:
    """Both fit a line: the weights end within a twentieth of the way from each other."""
    generator = torch.Generator().manual_seed(1)
    truth, x = torch.randn(64, 64, generator=generator), torch.randn(500, 64, generator=generator)
    ends = []
    for config in (CONFIG, AdamWConfig(**CONFIG.model_dump(exclude={"kind"}))):
        layer = nn.Linear(64, 64, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = config.build(layer)
        for _ in range(60):
            optimizer.zero_grad()
            (layer(x) - x @ truth.T).square().mean().backward()
            optimizer.step()
        ends.append(layer.weight.detach())
    assert float((ends[0] - ends[1]).norm()) < 0.05 * float(ends[1].norm())
    assert float((ends[1] - truth).norm()) < 0.5 * float(truth.norm())


def wide(tiny: ModuleType) -> Any:
    return tiny.decoder(d_model=64, n_layers=2)


EVERY = CheckpointingConfig(every=2, every_time=None)
LASTING = TrainConfig(steps=6, batch_tokens=128, max_grad_norm=None)


@pytest.mark.parametrize("saver", [MemoryConfig(), MemoryConfig(fused_backward=True)], ids=["after", "within"])
def test_a_resumed_run_ends_in_the_same_bits(
    saver: MemoryConfig, run: Callable[..., TrainReport], out: Path, tiny: ModuleType, data: Path, memory: Path
) -> None:
    """Codes and scales go through the run's one kind of checkpoint; `after` and `within` are the same too."""
    keys: dict[str, Any] = {"model": wide(tiny), "optim": CONFIG, "checkpoint": EVERY, "train": LASTING}
    run(**keys)
    job = tiny.job("pretrain", memory / "again", data, **keys, memory=saver)
    for step in (1, 3, 5):
        with pytest.raises(InterruptedRun):
            train(job, tiny.interrupt_after(step))
    train(job, Silent())
    assert tiny.final_digests(memory / "again") == tiny.final_digests(out)
    saved = load_file(tiny.saved(out)[6] / "optimizer.safetensors")
    assert {t.dtype for n, t in saved.items() if n.endswith("_codes")} == {torch.uint8}
    assert any(n.endswith("exp_avg") for n in saved), "norms keep theirs"


def test_the_disk_is_asked_for_what_a_checkpoint_takes(tiny: ModuleType, data: Path, out: Path) -> None:
    job = tiny.job("pretrain", out, data, model=wide(tiny), optim=CONFIG, checkpoint=EVERY, train=LASTING)
    train(job, Silent())
    files = [tiny.saved(out)[6] / name for name in ("model.safetensors", "optimizer.safetensors")]
    taken = sum(t.numel() * t.element_size() for file in files for t in load_file(file).values() if t.ndim)
    model = fresh(wide(tiny).changed(vocab_size=340), seed=0)
    assert checkpoint_bytes(trainer_of(job, model, None, 1, CPU, torch.float32)) == taken  # type: ignore[arg-type]


def test_a_plan_says_two_bytes_and_a_little_for_what_is_kept(tiny: ModuleType, tmp_path: Path) -> None:
    from cirilla_cli.data.batches import Cut, TokenBatch
    from cirilla_cli.engine.footprint import footprint

    shape = tiny.decoder(vocab_size=512, d_model=128, n_layers=2, context_length=32)
    ids = torch.zeros(1, 32, dtype=torch.long)
    batch, objective = TokenBatch(ids, ids.clone(), torch.zeros_like(ids)), CrossEntropyConfig()
    held = []
    for optim in (AdamWConfig(), AdamW8bitConfig()):
        job = tiny.job("pretrain", tmp_path, tmp_path, model=shape, optim=optim, objective=objective)
        held.append(footprint(job, shape, [batch], Cut(32, 1, 1, 0, 0), "cpu"))
    parameters = list(fresh(shape, seed=0).parameters())
    expected = sum(state_bytes(p.numel()) + 4 for p in parameters)
    assert 0 <= held[1].parts["optimizer"] - expected < 600_000, "and two maps, whatever the model"
    assert held[0].parts["optimizer"] >= 8 * sum(p.numel() for p in parameters)
    assert held[1].checkpoint_bytes == 4 * sum(p.numel() for p in parameters) + expected - 4 * len(parameters)


def test_sharded_weights_are_refused(run: Callable[..., TrainReport], out: Path) -> None:
    with pytest.raises(CirillaError, match=r"`optim.kind` is 'adamw_8bit', must be adamw or muon with parallel.kind"):
        run(optim=CONFIG, parallel=FSDPConfig())
    assert not out.exists()
