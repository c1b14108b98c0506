"""Causal grouped-query attention."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, D model width, N query heads,
# K key/value heads, H width of one head.

from torch import Tensor, nn

from cirilla_cli.model.cache import KVCache
from cirilla_cli.model.config import AttentionConfig, RMSNormConfig
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.ops.attention import attend
from cirilla_cli.model.rope import apply_rope


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (Ainslie et al., 2023, arXiv:2305.13245).

    Parameters are named as in Hugging Face's Llama and Qwen3, so a checkpoint loads without renaming.
    """

    def __init__(self, config: AttentionConfig, *, d_model: int, norm: RMSNormConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.width(d_model)
        self.window, self.rope = config.window, (self.head_dim, config.rope_theta)
        self.q_proj = nn.Linear(d_model, self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, d_model, bias=False)
        self.q_norm: nn.Module = norm.build(self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm: nn.Module = norm.build(self.head_dim) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: KVCache | None = None) -> Tensor:
        """Mix information across positions.

        Args:
            x_BTD: normalised residual stream at the T new positions.
            layout: where those positions are and what they may see, prepared.
            cache: keys and values of earlier positions; extended in place by the new ones.

        Returns:
            ``[B, T, D]``, to be added to the residual stream.
        """
        B, T, _ = x_BTD.shape
        q_BTNH = self.q_proj(x_BTD).view(B, T, self.n_heads, self.head_dim)
        k_BTKH = self.k_proj(x_BTD).view(B, T, self.n_kv_heads, self.head_dim)
        v_BSKH = self.v_proj(x_BTD).view(B, T, self.n_kv_heads, self.head_dim)

        # Norm before rotation, as Qwen3: norm weights differ within a rotated pair, so the order matters.
        angles = layout.angles[self.rope]
        q_BTNH = apply_rope(self.q_norm(q_BTNH), *angles)
        k_BSKH, key_layout = apply_rope(self.k_norm(k_BTKH), *angles), layout
        if cache is not None:
            k_BSKH, v_BSKH, key_layout = cache.append(k_BSKH, v_BSKH, layout)

        out_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, layout, key_layout, self.window)
        out: Tensor = self.o_proj(out_BTNH.reshape(B, T, -1))
        return out

    def make_cache(self, capacity: int) -> KVCache:
        """An empty memory for up to ``capacity`` positions."""
        return KVCache(capacity, self.window)
