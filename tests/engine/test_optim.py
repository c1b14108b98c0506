"""Optimizers against torch's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from cirilla_cli.engine.config import AdamW8bitConfig, AdamWConfig, MuonConfig, OptimSection
from cirilla_cli.engine.optim.muon import orthogonalise
from cirilla_cli.model.config import ChainedMTPConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig, GatedDeltaNetConfig, LatentAttentionConfig, Mamba2Config
from cirilla_cli.model.parts import Fused
from cirilla_cli.model.sections import MoEConfig

MUON = MuonConfig(
    lr=0.02, momentum=0.9, weight_decay=0.1, adamw=AdamWConfig(lr=3e-3, weight_decay=0.2, beta1=0.8, beta2=0.9)
)
ADAMW = AdamWConfig(lr=1e-2, weight_decay=0.3)
EVERY = [ADAMW, MUON, AdamW8bitConfig(lr=1e-2, weight_decay=0.3)]


def test_every_kind_of_optimizer_is_here() -> None:
    union, *_ = get_args(OptimSection)
    assert {type(config) for config in EVERY} == set(get_args(union))


@pytest.fixture
def make(tiny: ModuleType) -> Callable[[], Decoder]:
    return lambda: fresh(tiny.decoder(vocab_size=31, n_layers=2, tie_embeddings=False), seed=4)


def learn(model: Decoder, optimizer: Any, steps: int, first: int = 0) -> None:
    """Steps with gradients that are a function of the step's number."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def is_hidden(name: str) -> bool:
    return name.endswith("_proj.weight")


def oracle(model: Decoder) -> list[torch.optim.Optimizer]:
    named = dict(model.named_parameters())
    muon = torch.optim.Muon(
        [p for n, p in named.items() if is_hidden(n)],
        lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, ns_steps=5, adjust_lr_fn="original",
    )  # fmt: skip
    rest = [(n, p) for n, p in named.items() if not is_hidden(n)]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for n, p in rest if "norm" not in n], "weight_decay": 0.2},
            {"params": [p for n, p in rest if "norm" in n], "weight_decay": 0.0},
        ],
        lr=3e-3, betas=(0.8, 0.9), eps=1e-8,
    )  # fmt: skip
    return [muon, adamw]


def test_muon_moves_as_torchs_muon_and_adamw(make: Callable[[], Decoder]) -> None:
    """Torch orthogonalises in bfloat16, whose rounding is all that may differ: 2% of each matrix's path."""
    ours, theirs, began = make(), make(), make()
    learn(ours, MUON.build(ours), 5)
    both = oracle(theirs)

    class Both:
        def step(self) -> None:
            for optimizer in both:
                optimizer.step()

    learn(theirs, Both(), 5)
    start = dict(began.named_parameters())
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        mine, other = mine.detach(), other.detach()
        path = float((other - start[name].detach()).norm())
        assert path > 1e-3
        assert float((mine - other).norm()) < (0.02 if is_hidden(name) else 1e-5) * path, name


class Alone(Fused):
    """One hidden matrix."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns))

    def matrices(self) -> Mapping[str, Sequence[int]]:
        return {"weight": self.weight.shape[:1]}


def test_muons_rule_around_the_orthogonalisation_is_exact() -> None:
    """Two steps on a tall and a wide matrix, with the momentum, rate and decay written out."""
    for rows, columns in ((12, 4), (4, 12)):
        torch.manual_seed(0)
        layer = Alone(rows, columns)
        weight = layer.weight
        expected, average = weight.detach().clone(), torch.zeros(rows, columns)
        optimizer = MUON.build(layer)
        for _ in range(2):
            weight.grad = torch.randn(rows, columns)
            average = 0.9 * average + 0.1 * weight.grad
            update = orthogonalise((0.1 * weight.grad + 0.9 * average)[None], 5)[0]
            expected = expected * (1 - 0.02 * 0.1) - 0.02 * max(1.0, rows / columns) ** 0.5 * update
            optimizer.step()
            torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 8), (2, 8, 40), (1, 256, 272)])
def test_orthogonalised_gradients_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    gradients = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    out = orthogonalise(gradients, 5)
    values = torch.linalg.svdvals(out)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(gradients, full_matrices=False)
    alike = (out * (left @ right)).sum((-2, -1)) / (out.norm(dim=(-2, -1)) * (left @ right).norm(dim=(-2, -1)))
    assert float(alike.min()) > 0.97


def test_equal_shapes_in_one_batch_are_orthogonalised_as_alone() -> None:
    gradients = (
        torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(8))
        * torch.tensor([1.0, 1e-3, 50.0])[:, None, None]
    )
    together = orthogonalise(gradients, 5)
    for i in range(3):
        torch.testing.assert_close(together[i], orthogonalise(gradients[i : i + 1], 5)[0], rtol=1e-4, atol=1e-5)


def test_a_zero_gradient_stays_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 6), 5), torch.zeros(1, 4, 6))


def test_adamw_moves_as_torchs(make: Callable[[], Decoder]) -> None:
    ours, theirs = make(), make()
    learn(ours, ADAMW.build(ours), 5)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    learn(theirs, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, fused=False, foreach=False), 5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", EVERY)
def test_every_parameter_is_in_exactly_one_group(config: Any, make: Callable[[], Decoder]) -> None:
    model = make()
    grouped = [id(p) for group in config.build(model).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert len(set(grouped)) == len(grouped)


def test_tied_embeddings_are_grouped_once(tiny: ModuleType) -> None:
    model = fresh(tiny.decoder(vocab_size=31), seed=0)
    grouped = [id(p) for group in MUON.build(model).param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))


@pytest.mark.parametrize("config", EVERY)
def test_norms_and_vectors_are_not_decayed(config: Any, make: Callable[[], Decoder]) -> None:
    model = make()
    decay = {id(p): group["weight_decay"] for group in config.build(model).param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (decay[id(parameter)] == 0.0) == ("norm" in name), name


def test_muon_takes_the_blocks_matrices_and_nothing_else(make: Callable[[], Decoder]) -> None:
    model = make()
    names = {id(p): n for n, p in model.named_parameters()}
    hidden = {names[id(p)] for group in MUON.build(model).param_groups if group["muon"] for p in group["params"]}
    assert hidden == {n for n in names.values() if is_hidden(n)}
    assert len(hidden) == 14


MIXERS = {
    "M": Mamba2Config(n_heads=3, head_dim=4, d_state=5),
    "D": GatedDeltaNetConfig(n_heads=4, n_qk_heads=2, head_dim=5),
    "L": LatentAttentionConfig(n_heads=2, kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4),
    "A": AttentionConfig(n_heads=2),
}
EXPERTS = MoEConfig(n_experts=3, top_k=2, d_ff=7, shared_d_ff=9)
PARTS = {
    "mamba.in_proj.weight": (12, 12, 5, 5, 3),
    "linear_attn.in_proj_qkv.weight": (10, 10, 20),
    "self_attn.kv_a_proj_with_mqa.weight": (6, 4),
    "experts.gate_up_proj": (7, 7),
}
"""Rows of fused matrices, by hand: gate, x, B, C, dt; q, k, v; latents, turning keys; gate, up."""

NOT_HIDDEN = ("norm", "embed", "lm_head", "conv1d", "A_log", "dt_bias", ".D", "mlp.gate.")


@pytest.fixture
def make_all(tiny: ModuleType) -> Callable[[], Decoder]:
    """Every kind of mixer, experts and a step ahead."""
    keys = {"vocab_size": 31, "n_layers": 4, "tie_embeddings": False, "mixers": MIXERS, "pattern": "MDLA"}
    return lambda: fresh(tiny.decoder(**keys, mlp=EXPERTS, mtp=ChainedMTPConfig(depth=1)), seed=4).double()


def single(name: str, tensor: Tensor) -> Iterator[Tensor]:
    """The matrices in a parameter, or in its gradient, each by itself."""
    rows = next((rows for end, rows in PARTS.items() if name.endswith(end)), tensor.shape[-2:-1])
    for matrix in tensor if tensor.ndim == 3 else tensor[None]:
        start = 0
        for size in rows:
            yield matrix[start : start + size].clone()
            start += size
        assert start == len(matrix)


def test_each_matrix_moves_as_torchs_muon_would_move_it_alone(
    make_all: Callable[[], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, in which torch's own is made to iterate too: three steps, to rounding."""
    model = make_all()
    hidden = {n: p for n, p in model.named_parameters() if not any(part in n for part in NOT_HIDDEN)}
    assert all(
        any(name.endswith(end) for name in hidden) for end in (*PARTS, "eh_proj.weight", "mamba.out_proj.weight")
    )
    alone = {n: [nn.Parameter(part) for part in single(n, p.detach())] for n, p in hidden.items()}
    theirs = torch.optim.Muon(
        [p for parts in alone.values() for p in parts],
        lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, ns_steps=5, adjust_lr_fn="original",
    )  # fmt: skip
    ours = MUON.build(model)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            for own, gradient in zip(alone.get(name, ()), single(name, parameter.grad), strict=name in alone):
                own.grad = gradient
        ours.step()
        with monkeypatch.context() as exact:
            exact.setattr(Tensor, "bfloat16", Tensor.double)
            theirs.step()
    for name, parts in alone.items():
        for mine, other in zip(single(name, hidden[name].detach()), parts, strict=True):
            torch.testing.assert_close(mine, other.detach(), rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_muon_takes_no_router_convolution_or_vector(make_all: Callable[[], Decoder]) -> None:
    model = make_all()
    rest = {id(p) for group in MUON.build(model).param_groups if not group["muon"] for p in group["params"]}
    found = {n for n, p in model.named_parameters() if id(p) in rest}
    assert found == {n for n, _ in model.named_parameters() if any(part in n for part in NOT_HIDDEN)}


def test_fused_matrices_survive_a_checkpoint(make_all: Callable[[], Decoder], tmp_path: Any) -> None:
    from cirilla_cli.checkpoint import write_checkpoint

    straight = make_all().float()
    optimizer = MUON.build(straight)
    learn(straight, optimizer, 2)
    saved = write_checkpoint(tmp_path, 2, straight, tokenizer=None, optimizer=optimizer, state={"step": 2}, texts={})
    learn(straight, optimizer, 2, first=2)
    resumed = saved.load_model()
    again = MUON.build(resumed)
    saved.load_optimizer(again, resumed)
    learn(resumed, again, 2, first=2)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("config", EVERY)
def test_the_same_gradients_give_the_same_bits(config: Any, make: Callable[[], Decoder]) -> None:
    first, second = make(), make()
    for model in (first, second):
        learn(model, config.build(model), 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("config", EVERY)
def test_optimizer_state_survives_a_checkpoint(config: Any, make: Callable[[], Decoder], tmp_path: Any) -> None:
    from cirilla_cli.checkpoint import write_checkpoint

    straight = make()
    optimizer = config.build(straight)
    learn(straight, optimizer, 3)
    saved = write_checkpoint(tmp_path, 3, straight, tokenizer=None, optimizer=optimizer, state={"step": 3}, texts={})
    learn(straight, optimizer, 3, first=3)

    resumed = saved.load_model()
    fresh_optimizer = config.build(resumed)
    saved.load_optimizer(fresh_optimizer, resumed)
    learn(resumed, fresh_optimizer, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
