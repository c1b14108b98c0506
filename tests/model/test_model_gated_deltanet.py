"""Gated DeltaNet against the paper in loops and against transformers."""

# oracle: mixer gated_deltanet: test_matches_the_textbook

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import GatedDeltaNetConfig
from cirilla_cli.model.mixers.gated_deltanet import GatedDeltaNet
from cirilla_cli.model.ops.delta import Signals, chunked, recurrence

from .recurrences import DELTANET, LENGTHS, D, built, compare, convolved_in_loops, delta_in_loops, delta_signals, normal

FORMS = DELTANET
EACH_FORM = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)


# The definition


def textbook(config: GatedDeltaNetConfig, layer: GatedDeltaNet, x_BTD: Tensor, documents: list[list[int]]) -> Tensor:
    """The layer as the paper's section on it describes it, with the widths and eps of the Qwen models."""
    w, H, G, K, V = dict(layer.named_parameters()), config.n_heads, config.qk_heads, config.width(D), config.v_width(D)
    out_BTD = []
    for x_TD, docs in zip(x_BTD, documents, strict=True):
        T = len(docs)
        inputs = x_TD @ w["in_proj_qkv.weight"].T
        mixed = convolved_in_loops(inputs, w["conv1d.weight"][:, 0], docs)
        mixed = mixed / (1 + torch.exp(-mixed))
        q, k, v = mixed[:, : G * K].view(T, G, K), mixed[:, G * K : 2 * G * K].view(T, G, K), mixed[:, 2 * G * K :]
        q, k = (u / ((u * u).sum(-1, keepdim=True) + 1e-6).sqrt() for u in (q, k))
        g = -torch.exp(w["A_log"]) * torch.log(1 + torch.exp(x_TD @ w["in_proj_a.weight"].T + w["dt_bias"]))
        beta = 1 / (1 + torch.exp(-(x_TD @ w["in_proj_b.weight"].T)))
        starts = torch.tensor([t == 0 or docs[t] != docs[t - 1] for t in range(T)])
        drives = Signals((q / K**0.5)[None], k[None], v.view(1, T, H, V), g[None], beta[None], starts[None])
        y = delta_in_loops(drives)[0][0]
        normed = y / ((y * y).mean(-1, keepdim=True) + config.norm_eps).sqrt() * w["norm.weight"]
        gate = (x_TD @ w["in_proj_z.weight"].T).view(T, H, V)
        out_BTD.append((normed * gate / (1 + torch.exp(-gate))).view(T, H * V) @ w["out_proj.weight"].T)
    return torch.stack(out_BTD)


@EACH_FORM
@pytest.mark.parametrize("length", LENGTHS)
def test_matches_the_textbook(config: GatedDeltaNetConfig, length: int) -> None:
    compare(textbook, config, length)


def test_a_key_recalls_what_was_last_written_with_it() -> None:
    """The rule itself, without decay: a value written in full replaces the one before, others at right angles stay."""
    q = k = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 1, 0]][None, :, None]
    v, ones = normal(1, 5, 1, 2), torch.ones(1, 5, 1, dtype=torch.float64)
    y, state = chunked(Signals(q, k, v, 0 * ones, ones), chunk_size=5)
    torch.testing.assert_close(y, v, rtol=0, atol=1e-12)
    expected = torch.stack([v[0, 4, 0], v[0, 3, 0], torch.zeros(2, dtype=torch.float64)])
    torch.testing.assert_close(state[0, 0], expected, rtol=0, atol=1e-12)


def test_keys_that_are_all_alike_stay_exact_in_float32() -> None:
    """The system of a chunk is then as far from the identity as can be: powers of it go beyond 1e15."""
    s = delta_signals(128, groups=1, heads=2)
    alike = s.k_BTGK[:, :1] + 0.01 * s.k_BTGK
    s = Signals(s.q_BTGK, alike / alike.norm(dim=-1, keepdim=True), s.v_BTHV, 0.01 * s.g_BTH, 0 * s.g_BTH + 0.99)
    exact, state = delta_in_loops(s)
    half = Signals(*(x.float() for x in (s.q_BTGK, s.k_BTGK, s.v_BTHV, s.g_BTH, s.beta_BTH)))
    ours, last = chunked(half, chunk_size=64)
    assert ours.dtype == last.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.double(), state, rtol=1e-4, atol=1e-4)


# transformers


def rules() -> dict[str, Callable[..., tuple[Tensor, Tensor]]]:
    from transformers.models.qwen3_next import modeling_qwen3_next as module

    return {"chunks": module.torch_chunk_gated_delta_rule, "recurrence": module.torch_recurrent_gated_delta_rule}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("form", ["chunks", "recurrence"])
def test_equals_the_rule_of_transformers(form: str, length: int) -> None:
    """Theirs computes in float32 always, in chunks of 64, and divides queries by the root of their width."""
    s, state = delta_signals(length), normal(2, 4, 5, 3)
    parts = [x.float() for x in (s.q_BTGK, s.k_BTGK, s.v_BTHV, s.g_BTH, s.beta_BTH)]
    keys = {"initial_state": state.float(), "output_final_state": True}
    expected = rules()[form](5**0.5 * parts[0], *parts[1:], **keys)
    for ours in (recurrence(s, state), chunked(s, state, chunk_size=64)):
        torch.testing.assert_close(tuple(x.float() for x in ours), expected, rtol=0, atol=1e-5)


def settings_of(config: GatedDeltaNetConfig) -> dict[str, Any]:
    return {
        "hidden_size": D, "num_hidden_layers": 1, "layer_types": ["linear_attention"], "rms_norm_eps": config.norm_eps,
        "linear_num_value_heads": config.n_heads, "linear_num_key_heads": config.qk_heads,
        "linear_key_head_dim": config.width(D), "linear_value_head_dim": config.v_width(D),
        "linear_conv_kernel_dim": config.d_conv,
    }  # fmt: skip


def their_35(config: GatedDeltaNetConfig, ours: dict[str, Tensor]) -> torch.nn.Module:
    """Qwen3.5's layer: the same names, the same numbers."""
    import transformers
    from transformers.models.qwen3_5 import modeling_qwen3_5 as module

    layer: torch.nn.Module = module.Qwen3_5GatedDeltaNet(transformers.Qwen3_5TextConfig(**settings_of(config)), 0)
    layer.load_state_dict(ours)
    return layer.eval()


def their_next(config: GatedDeltaNetConfig, ours: dict[str, Tensor]) -> torch.nn.Module:
    """Qwen3-Next's layer: rows of q, k, v and z, and of b and a, are together for each head of keys."""
    import transformers
    from transformers.models.qwen3_next import modeling_qwen3_next as module

    layer: torch.nn.Module = module.Qwen3NextGatedDeltaNet(transformers.Qwen3NextConfig(**settings_of(config)), 0)
    left, G = dict(ours), config.qk_heads
    wide = config.n_heads * config.v_width(D)
    keys = G * config.width(D)
    parts = [*left.pop("in_proj_qkv.weight").split([keys, keys, wide]), left.pop("in_proj_z.weight")]
    left["in_proj_qkvz.weight"] = torch.cat([p.view(G, -1, D) for p in parts], dim=1).flatten(0, 1)
    parts = [left.pop("in_proj_b.weight"), left.pop("in_proj_a.weight")]
    left["in_proj_ba.weight"] = torch.cat([p.view(G, -1, D) for p in parts], dim=1).flatten(0, 1)
    layer.load_state_dict(left)
    return layer.eval()


@EACH_FORM
@pytest.mark.parametrize("length", [1, 7, 65])
@pytest.mark.parametrize("reference", [their_35, their_next])
@torch.no_grad()
def test_equals_the_layer_of_transformers(
    reference: Callable[[GatedDeltaNetConfig, dict[str, Tensor]], torch.nn.Module],
    config: GatedDeltaNetConfig, length: int,
) -> None:  # fmt: skip
    """In float32, as theirs computes always; with a small eps its rounding is made large, theirs more than ours."""
    x_BTD, layout = normal(2, length, D).float(), SequenceLayout.rows(2, length)
    for eps, atol in ((1e-2, 1e-5), (1e-6, 1e-4)):
        ours = built(config.model_copy(update={"norm_eps": eps})).float()
        theirs = reference(config.model_copy(update={"norm_eps": eps}), ours.state_dict())
        torch.testing.assert_close(ours(x_BTD, layout), theirs(x_BTD), rtol=0, atol=atol)


@EACH_FORM
@torch.no_grad()
def test_bfloat16_is_nearer_the_exact_layer_than_that_of_transformers(config: GatedDeltaNetConfig) -> None:
    """By the median: where a query is nearly at a right angle to all keys, the norm of the output makes noise large."""
    layer, x_BTD, layout = built(config).bfloat16(), normal(16, 19, D).bfloat16(), SequenceLayout.rows(16, 19)
    theirs = their_35(config, layer.state_dict()).bfloat16()(x_BTD)
    ours = layer(x_BTD, layout)
    exact = layer.double()(x_BTD.double(), layout)
    assert float((ours - exact).abs().median()) < float((theirs - exact).abs().median())
    assert float((ours - exact).abs().median()) < 0.005 * float(exact.std())


# Configuration


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValidationError, match="n_heads .4. must be a multiple of n_qk_heads .3."):
        GatedDeltaNetConfig(n_heads=4, n_qk_heads=3)
    assert "whole number" in (GatedDeltaNetConfig(n_heads=5).misfit(D) or "")
    assert GatedDeltaNetConfig(n_heads=5, head_dim=7).misfit(D) is None
