"""Mamba-2 against the paper in loops and against transformers; the optional kernel."""

# oracle: mixer mamba2: test_matches_the_textbook

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import Mamba2Config
from cirilla_cli.model.mixers.mamba2 import Mamba2
from cirilla_cli.model.ops import ssd_kernels
from cirilla_cli.model.ops.ssd import Signals, chunked

from .conftest import config_of
from .recurrences import LENGTHS, MAMBA2, D, built, compare, convolved_in_loops, normal, ssd_in_loops, ssd_signals

FORMS = MAMBA2
EACH_FORM = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)


# The definition


def textbook(config: Mamba2Config, mamba: Mamba2, x_BTD: Tensor, documents: list[list[int]]) -> Tensor:
    """The layer by the paper's section 7; shares no code with ours."""
    w, inner = dict(mamba.named_parameters()), config.n_heads * config.width(D)
    shared = config.n_groups * config.d_state
    out_BTD = []
    for x_TD, docs in zip(x_BTD, documents, strict=True):
        T = len(docs)
        projected = x_TD @ w["in_proj.weight"].T + w.get("in_proj.bias", 0.0)
        gate, raw = projected[:, :inner], projected[:, -config.n_heads :]
        inputs = projected[:, inner : -config.n_heads]
        mixed = convolved_in_loops(inputs, w["conv1d.weight"][:, 0], docs) + w.get("conv1d.bias", 0.0)
        mixed = mixed / (1 + torch.exp(-mixed))
        dt = torch.log(1 + torch.exp(raw + w["dt_bias"])).clamp(config.dt_min, config.dt_max or math.inf)
        x, b, c = mixed[:, :inner], mixed[:, inner : inner + shared], mixed[:, inner + shared :]
        starts = torch.tensor([t == 0 or docs[t] != docs[t - 1] for t in range(T)])
        y, _ = ssd_in_loops(Signals(
            x.view(1, T, config.n_heads, -1), dt[None], -torch.exp(w["A_log"]), b.view(1, T, config.n_groups, -1),
            c.view(1, T, config.n_groups, -1), w["D"], starts[None],
        ))  # fmt: skip
        gated = (y.view(T, inner) * gate / (1 + torch.exp(-gate))).view(T, config.n_groups, -1)
        normed = gated / ((gated**2).mean(-1, keepdim=True) + config.norm_eps).sqrt()
        out_BTD.append(normed.view(T, inner) * w["norm.weight"] @ w["out_proj.weight"].T + w.get("out_proj.bias", 0.0))
    return torch.stack(out_BTD)


@EACH_FORM
@pytest.mark.parametrize("length", LENGTHS)
def test_matches_the_textbook(config: Mamba2Config, length: int) -> None:
    compare(textbook, config, length)


def test_small_decays_behind_a_large_one_keep_their_precision() -> None:
    """In float32 the sum up to the large one has steps of 4e-3, which the small ones must not be rounded to."""
    s = ssd_signals(64)
    dt = s.dt_BTH * 0.01
    dt[:, 1] = 1e5
    s = Signals(s.x_BTHP, dt, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H)
    exact, _ = ssd_in_loops(s)
    ours, _ = chunked(s.to(torch.float32), chunk_size=64)
    torch.testing.assert_close(ours[:, 2:].double(), exact[:, 2:], rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@torch.no_grad()
def test_bfloat16_stays_near_the_exact_layer() -> None:
    mamba, x_BTD, layout = built(FORMS["plain"]), normal(2, 19, D), SequenceLayout.rows(2, 19)
    exact = mamba(x_BTD, layout)
    mamba.bfloat16()
    assert float((mamba(x_BTD.bfloat16(), layout) - exact).square().mean().sqrt()) < 0.02 * float(exact.std())


# transformers


def their_mamba2(config: Mamba2Config) -> torch.nn.Module:
    import transformers
    from transformers.models.mamba2 import modeling_mamba2 as module

    settings = transformers.Mamba2Config(
        hidden_size=D, num_heads=config.n_heads, head_dim=config.width(D), state_size=config.d_state,
        n_groups=config.n_groups, expand=config.n_heads * config.width(D) // D, conv_kernel=config.d_conv,
        use_conv_bias=config.conv_bias, use_bias=config.proj_bias, chunk_size=8, num_hidden_layers=1,
        time_step_limit=(config.dt_min, config.dt_max or math.inf), layer_norm_epsilon=config.norm_eps,
    )  # fmt: skip
    layer: torch.nn.Module = module.Mamba2Mixer(settings, layer_idx=0)
    return layer


def their_granite(config: Mamba2Config) -> torch.nn.Module:
    import transformers
    from transformers.models.granitemoehybrid import modeling_granitemoehybrid as module

    settings = transformers.GraniteMoeHybridConfig(
        hidden_size=D, mamba_n_heads=config.n_heads, mamba_d_head=config.width(D), mamba_d_state=config.d_state,
        mamba_n_groups=config.n_groups, mamba_expand=config.n_heads * config.width(D) // D,
        mamba_d_conv=config.d_conv, mamba_conv_bias=config.conv_bias, mamba_proj_bias=config.proj_bias,
        mamba_chunk_size=8, num_hidden_layers=1, layer_types=["mamba"], rms_norm_eps=config.norm_eps,
    )  # fmt: skip
    layer: torch.nn.Module = module.GraniteMoeHybridMambaLayer(settings, layer_idx=0)
    return layer


@pytest.mark.parametrize("length", [1, 7, 8, 9, 29])
@pytest.mark.parametrize(
    ("reference", "form"),
    [(their_mamba2, "plain"), (their_mamba2, "biases moved, steps bounded"), (their_mamba2, "narrow heads, in groups"),
     (their_granite, "plain"), (their_granite, "narrow heads, in groups")],
)  # fmt: skip
@torch.no_grad()
def test_equals_the_layer_of_transformers(
    reference: Callable[[Mamba2Config], torch.nn.Module], form: str, length: int
) -> None:
    """Theirs scans in float32 always, so ours does too."""
    ours, theirs, x_BTD = built(FORMS[form]).float(), reference(FORMS[form]), normal(2, length, D).float()
    theirs.load_state_dict(ours.state_dict())
    out = ours(x_BTD, SequenceLayout.rows(2, length))
    torch.testing.assert_close(out, theirs.eval()(x_BTD), rtol=0, atol=1e-5)


# Configuration, first weights


@torch.no_grad()
def test_each_input_goes_whole_to_its_output_at_first() -> None:
    mamba = fresh(config_of("M", {"M": FORMS["plain"]}, n_layers=1), seed=0).model.layers[0].mamba
    assert torch.equal(mamba.D, torch.ones(4))
    assert not bool(mamba.conv1d.bias.any())


@pytest.mark.parametrize(
    ("keys", "match"),
    [({"n_groups": 3}, "multiple of n_groups"), ({"head_dim": 8, "expand": 3.0}, "set one of them"),
     ({"dt_min": 0.5, "dt_max": 0.1}, "must not be less")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(keys: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        Mamba2Config(n_heads=4, **keys)


def test_heads_must_divide_the_inner_width() -> None:
    assert "whole number" in (Mamba2Config(n_heads=5).misfit(D) or "")
    assert Mamba2Config(n_heads=5, head_dim=7).misfit(D) is None


# The optional kernel


def mamba_chunk_scan_combined(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None, dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf), return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The package's signature; the initial state goes to document 0, and a new number begins with nothing."""
    assert chunk_size & (chunk_size - 1) == 0
    assert D is not None
    assert return_final_states
    assert not dt_softplus
    starts = None
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        starts = torch.diff(seq_idx, dim=1, prepend=torch.zeros_like(seq_idx[:, :1])) != 0
    return ssd_in_loops(Signals(x, dt, A, B, C, D, starts), initial_states)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A `mamba_ssm` in which only the scan is."""
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["mamba_ssm.ops.triton.ssd_combined"])["mamba_chunk_scan_combined"] = mamba_chunk_scan_combined
    ssd_kernels.installed.cache_clear()
    yield
    ssd_kernels.installed.cache_clear()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
def test_the_kernel_gets_our_arguments_as_its_own(documents: bool) -> None:
    kernel, s, state = ssd_kernels.installed(), ssd_signals(9, documents=documents), normal(2, 4, 3, 5)
    assert kernel is not None
    parts = (s.x_BTHP, s.dt_BTH, s.a_H, s.b_BTGN, s.c_BTGN, s.d_H, s.starts_BT)
    for before in (None, state):
        found = kernel(*parts, before, chunk_size=12)
        torch.testing.assert_close(found, tuple(x.float() for x in ssd_in_loops(s, before)), rtol=0, atol=1e-6)


def test_without_the_package_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    ssd_kernels.installed.cache_clear()
    assert ssd_kernels.installed() is None
    ssd_kernels.installed.cache_clear()


@pytest.mark.usefixtures("package")
def test_the_kernel_is_for_half_precision_on_cuda_alone() -> None:
    class Elsewhere:
        device = torch.device("cuda")
        dtype = torch.bfloat16

    assert inspect.unwrap(ssd_kernels.kernel_for)(Elsewhere()) is not None  # type: ignore[arg-type]
    Elsewhere.dtype = torch.float32
    assert ssd_kernels.kernel_for(Elsewhere()) is None  # type: ignore[arg-type]
    assert ssd_kernels.kernel_for(torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)) is None


def test_a_section_that_was_written_in_full_is_read_again() -> None:
    """As `model.json` has it: every field, those left at their defaults too."""
    section = Mamba2Config(n_heads=3, head_dim=12)
    assert Mamba2Config.model_validate(section.model_dump(mode="json")) == section
