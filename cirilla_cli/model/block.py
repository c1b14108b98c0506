"""One layer: a sequence mixer and a feed-forward, each normalised before and added to the residual stream."""

# Shape suffixes: B batch, T positions, D model width.

from torch import Tensor, nn

from cirilla_cli.model.cache import KVCache
from cirilla_cli.model.config import DecoderConfig, Mixer
from cirilla_cli.model.layout import SequenceLayout


class Block(nn.Module):
    """Pre-norm residual layer, its parts named as in Hugging Face's Llama."""

    def __init__(self, config: DecoderConfig, mixer: Mixer) -> None:
        super().__init__()
        self.input_layernorm = config.norm.build(config.d_model)
        self.self_attn = mixer.build(config.d_model, config.norm)
        self.post_attention_layernorm = config.norm.build(config.d_model)
        self.mlp = config.mlp.build(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, cache: KVCache | None = None) -> Tensor:
        """The layer's output for hidden states, both ``[B, T, D]``; ``cache`` remembers earlier positions."""
        x_BTD = x_BTD + self.dropout(self.self_attn(self.input_layernorm(x_BTD), layout, cache))
        out: Tensor = x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD)))
        return out
