"""One layer: a sequence mixer and a feed-forward, each normalised and added to the residual stream."""

# Shape suffixes: B batch, T positions, D model width.

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn

from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.config import StackConfig
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import MixerSection
from cirilla_cli.model.parts import Mixer, Tally
from cirilla_cli.model.sections import MLPSection


class Around(Protocol):
    """How a block is called in a forward pass, for whoever wants to keep less of it, or to look on."""

    def __call__(
        self, block: "Block", x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None, tally: Tally | None
    ) -> Tensor:
        """What ``block`` makes of the rest."""
        ...


def plainly(
    block: "Block", x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None, tally: Tally | None
) -> Tensor:
    """The block itself and nothing else."""
    out: Tensor = block(x_BTD, layout, cache, tally)
    return out


class Block(nn.Module, ABC):
    """A residual layer; where its norms stand is what the kinds of it differ in.

    The mixer's attribute is called as its section says (`self_attn`, `mamba`, `linear_attn`), the rest as in Hugging
    Face's Llama and Gemma 2.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.around: Around = plainly

    def _hold(self, config: StackConfig, mixer: MixerSection) -> None:
        self.mixer_name = mixer.module_name
        self.add_module(mixer.module_name, mixer.build(config.d_model, config.norm))

    def _feed(self, config: StackConfig, mlp: MLPSection) -> None:
        self.mlp = mlp.build(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def mixer(self) -> Mixer:
        """The sequence mixer."""
        mixer = self._modules[self.mixer_name]
        assert isinstance(mixer, Mixer)
        return mixer

    def through(
        self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None, tally: Tally | None = None
    ) -> Tensor:
        """As `forward`, called as `around` says: the way for stacks of blocks."""
        return self.around(self, x_BTD, layout, cache, tally)

    @abstractmethod
    def forward(
        self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None, tally: Tally | None = None
    ) -> Tensor:
        """The layer's output for hidden states, both ``[B, T, D]``; ``cache`` remembers earlier positions."""

    def _scaled(self, x_BTD: Tensor) -> Tensor:
        """A branch's output as it is added to the stream."""
        x_BTD = self.dropout(x_BTD)
        return x_BTD if self.residual_scale == 1.0 else x_BTD * self.residual_scale


class PreNorm(Block):
    """x + f(norm(x)): steady at any depth, what most models since GPT-2 use (arXiv:2002.04745)."""

    def __init__(self, config: StackConfig, mixer: MixerSection, mlp: MLPSection, index: int) -> None:
        super().__init__(config)
        # The norm after the embeddings, where there is one, has just done this layer's work.
        normed = config.embedding_norm and index == 0
        self.input_layernorm: nn.Module = nn.Identity() if normed else config.norm.build(config.d_model)
        self._hold(config, mixer)
        self.post_attention_layernorm = config.norm.build(config.d_model)
        self._feed(config, mlp)

    def forward(
        self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None, tally: Tally | None = None
    ) -> Tensor:
        """The layer's output for hidden states, both ``[B, T, D]``; ``cache`` remembers earlier positions."""
        # The stream is added to what a branch has just made, which nothing else needs: that saves a tensor and a pass.
        x_BTD = self._scaled(self.mixer(self.input_layernorm(x_BTD), layout, cache)).add_(x_BTD)
        return self._scaled(self.mlp(self.post_attention_layernorm(x_BTD), layout, tally)).add_(x_BTD)


class PostNorm(Block):
    """norm(x + f(x)): the first transformers and BERT; wants a warm-up (arXiv:1706.03762, section 3.1)."""

    def __init__(self, config: StackConfig, mixer: MixerSection, mlp: MLPSection, index: int) -> None:
        super().__init__(config)
        self._hold(config, mixer)
        self.post_attention_layernorm = config.norm.build(config.d_model)
        self._feed(config, mlp)
        self.post_feedforward_layernorm = config.norm.build(config.d_model)

    def forward(
        self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None, tally: Tally | None = None
    ) -> Tensor:
        """The layer's output for hidden states, both ``[B, T, D]``; ``cache`` remembers earlier positions."""
        x_BTD = self.post_attention_layernorm(x_BTD + self._scaled(self.mixer(x_BTD, layout, cache)))
        out: Tensor = self.post_feedforward_layernorm(x_BTD + self._scaled(self.mlp(x_BTD, layout, tally)))
        return out


class SandwichNorm(Block):
    """x + norm(f(norm(x))): branches bounded on both sides, as in Gemma 2 (arXiv:2105.13290, section 2.4)."""

    def __init__(self, config: StackConfig, mixer: MixerSection, mlp: MLPSection, index: int) -> None:
        super().__init__(config)
        self.input_layernorm = config.norm.build(config.d_model)
        self._hold(config, mixer)
        self.post_attention_layernorm = config.norm.build(config.d_model)
        self.pre_feedforward_layernorm = config.norm.build(config.d_model)
        self._feed(config, mlp)
        self.post_feedforward_layernorm = config.norm.build(config.d_model)

    def forward(
        self, x_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None, tally: Tally | None = None
    ) -> Tensor:
        """The layer's output for hidden states, both ``[B, T, D]``; ``cache`` remembers earlier positions."""
        mixed_BTD = self.mixer(self.input_layernorm(x_BTD), layout, cache)
        x_BTD = x_BTD + self._scaled(self.post_attention_layernorm(mixed_BTD))
        fed_BTD = self.mlp(self.pre_feedforward_layernorm(x_BTD), layout, tally)
        return x_BTD + self._scaled(self.post_feedforward_layernorm(fed_BTD))


BLOCKS: dict[str, type[PreNorm] | type[PostNorm] | type[SandwichNorm]] = {
    "pre": PreNorm, "post": PostNorm, "sandwich": SandwichNorm,
}  # fmt: skip
"""Kinds of block by where their norms stand."""
