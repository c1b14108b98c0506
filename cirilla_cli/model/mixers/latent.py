"""Multi-head latent attention: keys and values of all heads are read out of one small vector a position."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, D model width, N heads,
# H width of a query or key (a part without position, then a part that turns), V width of a value,
# R width of the latent, C = R + the part of a key that turns: what is remembered of a position.

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache, PastCache
from cirilla_cli.model.layout import Needs, SequenceLayout, Sight, visible_BTS
from cirilla_cli.model.mixers.config import LatentAttentionConfig
from cirilla_cli.model.ops.attention import Attend
from cirilla_cli.model.parts import Clippable, Fused, Mixer
from cirilla_cli.model.rope import Rotation, apply_rope
from cirilla_cli.model.sections import RMSNormConfig

_SIGHT = Sight()


class LatentAttention(Mixer, Fused, Clippable):
    """Multi-head latent attention (DeepSeek-V2, 2024, arXiv:2405.04434, section 2.1).

    Parameters are named as in Hugging Face's DeepSeek-V3; the rows that make the turning parts stand there as
    interleaved pairs, here as halves (docs/model/latent-attention.md).
    """

    def __init__(self, config: LatentAttentionConfig, *, d_model: int) -> None:
        super().__init__()
        N, self.rank, wide = config.n_heads, config.kv_lora_rank, config.qk_head_dim
        self.n_heads, self.v_width, self.scale = N, config.v_head_dim, config.score_scale()
        self.still, self.turning = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.rotation = Rotation(config.rope, self.turning) if config.rope else None
        self.needs = Needs(frozenset({self.rotation} if self.rotation else ()), frozenset({_SIGHT}))
        self.attend = Attend()
        self.q_lora_rank, norm = config.q_lora_rank, RMSNormConfig(eps=config.latent_eps)
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(d_model, N * wide, bias=False)
        else:
            self.q_a_proj = nn.Linear(d_model, config.q_lora_rank, bias=config.bias)
            self.q_a_layernorm = norm.build(config.q_lora_rank)
            self.q_b_proj = nn.Linear(config.q_lora_rank, N * wide, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(d_model, self.rank + self.turning, bias=config.bias)
        self.kv_a_layernorm = norm.build(self.rank)
        self.kv_b_proj = nn.Linear(self.rank, N * (self.still + self.v_width), bias=False)
        self.o_proj = nn.Linear(N * self.v_width, d_model, bias=config.bias)

    def matrices(self) -> Mapping[str, Sequence[int]]:
        """Latents and turning keys."""
        return {"kv_a_proj_with_mqa.weight": (self.rank, self.turning)}

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """Attention's output ``[B, T, D]``; ``cache`` holds latents and turned keys of earlier positions."""
        q_BTNH, seen_BSC, seen = self.queries(x_BTD, layout), self.latents(x_BTD, layout), layout
        if cache is not None:
            assert isinstance(cache, PastCache)
            (seen_BSC,), seen = cache.append(layout, seen_BSC)
        if cache is not None and self.absorbs(q_BTNH.shape[1], seen_BSC.shape[1]):
            out_BTNV = self.absorbed(q_BTNH, seen_BSC, layout, seen)
        else:
            out_BTNV = self.plain(q_BTNH, seen_BSC, layout, seen)
        out: Tensor = self.o_proj(out_BTNV.flatten(2))
        return out

    def queries(self, x_BTD: Tensor, layout: SequenceLayout) -> Tensor:
        """Queries ``[B, T, N, H]``, their last part turned (appendix C)."""
        if self.q_lora_rank is None:
            flat = self.q_proj(x_BTD)
        else:
            flat = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        still, turning = _cut(flat.view(*x_BTD.shape[:2], self.n_heads, -1), self.still)
        return torch.cat([still, self._turned(turning, layout)], dim=-1)

    def latents(self, x_BTD: Tensor, layout: SequenceLayout) -> Tensor:
        """What is remembered of each position ``[B, T, C]``: the latent, then the one turned key of all heads."""
        latent, turning = _cut(self.kv_a_proj_with_mqa(x_BTD), self.rank)
        return torch.cat([self.kv_a_layernorm(latent), self._turned(turning[:, :, None], layout)[:, :, 0]], dim=-1)

    def _turned(self, x_BTNH: Tensor, layout: SequenceLayout) -> Tensor:
        return apply_rope(x_BTNH, *layout.angles[self.rotation.name]) if self.rotation else x_BTNH

    def absorbs(self, new: int, total: int) -> bool:
        """Whether ``new`` queries over ``total`` positions are computed in the latent space.

        They are where that multiplies less and stores no more: the plain form makes a key and a value of every
        position again, the absorbed one has longer products and puts every score into memory.
        """
        up, wide = self.rank * (self.still + self.v_width), self.still + self.turning + self.v_width
        plain = total * up + new * total * wide
        absorbed = new * up + new * total * (2 * self.rank + self.turning)
        return absorbed < plain and new <= wide

    def plain(self, q_BTNH: Tensor, seen_BSC: Tensor, query: SequenceLayout, key: SequenceLayout) -> Tensor:
        """Attention ``[B, T, N, V]`` over the keys and values of every head, read out of the latents."""
        latent, turned = _cut(seen_BSC, self.rank)
        still, v_BSNV = _cut(self.kv_b_proj(latent).view(*seen_BSC.shape[:2], self.n_heads, -1), self.still)
        k_BSNH = torch.cat([still, turned[:, :, None].expand(-1, -1, self.n_heads, -1)], dim=-1)
        out_BTNV: Tensor = self.attend(q_BTNH, k_BSNH, v_BSNV, query, key, _SIGHT, scale=self.scale)
        return out_BTNV

    def absorbed(self, q_BTNH: Tensor, seen_BSC: Tensor, query: SequenceLayout, key: SequenceLayout) -> Tensor:
        """The same ``[B, T, N, V]`` over the latents themselves, which all heads share (section 2.1.2).

        q . (W_k c) = (W_k^T q) . c, and the mean of W_v c is W_v of the mean: the two halves of kv_b_proj move to the
        queries and to the output, and no key or value of a head is ever made.
        """
        up = self.kv_b_proj.weight.view(self.n_heads, -1, self.rank)
        up_k_NHR, up_v_NVR = up[:, : self.still], up[:, self.still :]
        still, turned = _cut(q_BTNH, self.still)
        q_BTNC = torch.cat([torch.einsum("btnh,nhr->btnr", still, up_k_NHR), turned], dim=-1) * self.scale
        mean_BTNR = _mean_latents(q_BTNC, seen_BSC, visible_BTS(query, key, _SIGHT), self.rank)
        return torch.einsum("btnr,nvr->btnv", mean_BTNR, up_v_NVR)

    def row_factors(self, factor_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts without position share the factor; the turned key is all heads', so its queries take all of it."""
        half_N1, factor_N1 = factor_N.sqrt()[:, None], factor_N[:, None]
        still_NH, values_NV = half_N1.expand(-1, self.still), torch.ones_like(half_N1).expand(-1, self.v_width)
        queries = self.q_proj if self.q_lora_rank is None else self.q_b_proj
        yield queries.weight, torch.cat([still_NH, factor_N1.expand(-1, self.turning)], dim=1).flatten()
        yield self.kv_b_proj.weight, torch.cat([still_NH, values_NV], dim=1).flatten()

    def make_cache(self, capacity: int, rollback: int = 0) -> PastCache:
        """An empty memory for up to ``capacity`` positions; any number of them may be taken back."""
        return PastCache(capacity, rollback=rollback)


def _mean_latents(q_BTNC: Tensor, seen_BSC: Tensor, mask_BTS: Tensor, rank: int) -> Tensor:
    """Latents averaged by softmax of the scores, ``[B, T, N, R]``.

    Heads are more queries over the same keys, so this is two products; PyTorch's grouped attention on the CPU, and
    its fused kernels of this width, would first copy the latents for each head.
    """
    B, T, N, _ = q_BTNC.shape
    scores_BTNS = (q_BTNC.flatten(1, 2) @ seen_BSC.transpose(1, 2)).view(B, T, N, -1)
    scores_BTNS = scores_BTNS.masked_fill(~mask_BTS[:, :, None], -torch.inf)
    exact = torch.promote_types(scores_BTNS.dtype, torch.float32)
    weights_BTNS = scores_BTNS.softmax(-1, dtype=exact).to(q_BTNC.dtype)
    return (weights_BTNS.flatten(1, 2) @ seen_BSC[..., :rank]).view(B, T, N, rank)


def _cut(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The first numbers of the last axis, and the rest."""
    return x[..., :first], x[..., first:]
