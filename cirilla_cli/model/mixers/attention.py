"""Grouped-query attention."""

# Shape suffixes: B batch, T new positions, S remembered and new positions, D model width, N query heads,
# K key/value heads, H width of one head.

from collections.abc import Iterator

from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache, PastCache
from cirilla_cli.model.layout import Needs, SequenceLayout, Sight
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.ops.attention import Attend
from cirilla_cli.model.parts import Clippable, Mixer
from cirilla_cli.model.rope import Rotation, apply_rope
from cirilla_cli.model.sections import NormSection


class Attention(Mixer, Clippable):
    """Grouped-query attention with rotary positions (Ainslie et al., 2023, arXiv:2305.13245).

    Parameters are named as in Hugging Face's Llama and Qwen3, so a checkpoint loads without renaming.
    """

    def __init__(self, config: AttentionConfig, *, d_model: int, norm: NormSection) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.width(d_model)
        self.sight = Sight(config.causal, config.window)
        self.scale, self.softcap = config.scale, config.softcap
        self.rotation = Rotation(config.rope, config.rope.turned(self.head_dim)) if config.rope else None
        sights = frozenset({self.sight})
        capped = sights if config.softcap else frozenset()
        self.needs = Needs(frozenset({self.rotation} if self.rotation else ()), sights, capped)
        self.attend = Attend()
        self.q_proj = nn.Linear(d_model, self.n_heads * self.head_dim, bias=config.bias)
        self.k_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=config.bias)
        self.v_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=config.bias)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, d_model, bias=config.out_bias)
        self.q_norm: nn.Module = norm.build(self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm: nn.Module = norm.build(self.head_dim) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None) -> Tensor:
        """Attention's output ``[B, T, D]``; ``cache`` holds keys and values of earlier positions."""
        B, T, _ = x_BTD.shape
        q_BTNH = self.q_proj(x_BTD).view(B, T, self.n_heads, self.head_dim)
        k_BTKH = self.k_proj(x_BTD).view(B, T, self.n_kv_heads, self.head_dim)
        v_BSKH = self.v_proj(x_BTD).view(B, T, self.n_kv_heads, self.head_dim)

        # Norm before rotation, as Qwen3: norm weights differ within a rotated pair, so the order matters.
        q_BTNH, k_BSKH, key_layout = self.q_norm(q_BTNH), self.k_norm(k_BTKH), layout
        if self.rotation is not None:
            angles = layout.angles[self.rotation.name]
            q_BTNH, k_BSKH = apply_rope(q_BTNH, *angles), apply_rope(k_BSKH, *angles)
        if cache is not None:
            assert isinstance(cache, PastCache)
            (k_BSKH, v_BSKH), key_layout = cache.append(layout, k_BSKH, v_BSKH)

        out_BTNH = self.attend(
            q_BTNH, k_BSKH, v_BSKH, layout, key_layout, self.sight, scale=self.scale, softcap=self.softcap
        )
        out: Tensor = self.o_proj(out_BTNH.reshape(B, T, -1))
        return out

    @property
    def clips(self) -> bool:
        """Norms undo what is done to the matrices before them."""
        return isinstance(self.q_norm, nn.Identity)

    def row_factors(self, factor_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Queries and keys share the factor; keys of several heads stay, and those heads' queries take all of it."""
        alone = self.n_heads == self.n_kv_heads
        rows = (factor_N.sqrt() if alone else factor_N).repeat_interleave(self.head_dim)
        for layer in (self.q_proj, self.k_proj) if alone else (self.q_proj,):
            yield from ((parameter, rows) for parameter in layer.parameters())

    def make_cache(self, capacity: int, rollback: int = 0) -> PastCache:
        """An empty memory for up to ``capacity`` positions.

        Raises:
            ValueError: the layer sees later positions, so nothing can be decoded token by token.
        """
        if not self.sight.causal:
            raise ValueError("a layer that sees later positions has no cache")
        return PastCache(capacity, self.sight.window, rollback)
