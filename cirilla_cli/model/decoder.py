"""The causal language model."""

# Shape suffixes: B batch, T new positions, D model width, V vocabulary.

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from cirilla_cli.model.block import BLOCKS, Block
from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.config import DecoderConfig, StackConfig
from cirilla_cli.model.layout import Needs, SequenceLayout
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import Readout

Out = TypeVar("Out")


class Trunk(nn.Module):
    """Embedding, blocks and final norm, under the names Hugging Face's checkpoints use."""

    def __init__(self, config: StackConfig, vocab_size: int) -> None:
        super().__init__()
        D, block = config.d_model, BLOCKS[config.norm_placement]
        self.embed_tokens = nn.Embedding(vocab_size, D)
        self.embed_positions = nn.Embedding(config.context_length, D) if config.positions else None
        self.embedding_scale = config.embedding_scale
        self.embedding_norm: nn.Module = config.norm.build(D) if config.embedding_norm else nn.Identity()
        parts = zip(config.layer_mixers(), config.layer_mlps(), strict=True)
        self.layers = nn.ModuleList(block(config, mixer, mlp, i) for i, (mixer, mlp) in enumerate(parts))
        # After the last addition a post-norm block has just normalised.
        self.norm: nn.Module = nn.Identity() if config.norm_placement == "post" else config.norm.build(D)
        self.needs = Needs.of_all(layer.mixer.needs for layer in self.blocks())

    def blocks(self) -> list[Block]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def forward(
        self,
        tokens_BT: Tensor,
        layout: SequenceLayout,
        caches: Sequence[LayerCache] | None = None,
        tally: Tally | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, D]`` after the last block, before the final norm."""
        x_BTD = self.embed(tokens_BT, layout)
        layout = layout.prepared(self.needs, x_BTD.dtype)
        for i, block in enumerate(self.layers):
            x_BTD = block(x_BTD, layout, None if caches is None else caches[i], tally)
        return x_BTD

    def embed(self, tokens_BT: Tensor, layout: SequenceLayout) -> Tensor:
        """What enters the first block, ``[B, T, D]``."""
        x_BTD: Tensor = self.embed_tokens(tokens_BT)
        if self.embedding_scale != 1.0:
            x_BTD = x_BTD * self.embedding_scale
        if self.embed_positions is not None:
            x_BTD = x_BTD + self.embed_positions(layout.positions_BT)
        out: Tensor = self.embedding_norm(x_BTD)
        return out


class Decoder(nn.Module):
    """Embeddings, blocks, norm, and a readout in place of a fixed head.

    Raises:
        ValueError: the configuration leaves the vocabulary open.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size must be known before a model can be built")
        self.config = config
        self.model = Trunk(config, config.vocab_size)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self,
        tokens_BT: Tensor,
        layout: SequenceLayout,
        caches: Sequence[LayerCache] | None = None,
        *,
        readout: Readout[Out],
        tally: Tally | None = None,
    ) -> Out:
        """Run the new tokens through every layer and end in ``readout``.

        Args:
            tokens_BT: token ids.
            layout: their positions and documents.
            caches: one for each layer, extended in place; None when nothing is remembered.
            readout: what becomes of the final hidden states.
            tally: takes the sums that layers leave beside their output, such as balance losses.
        """
        x_BTD = self.model.norm(self.model(tokens_BT, layout, caches, tally))
        if self.config.logit_scale != 1.0:
            x_BTD = x_BTD * self.config.logit_scale
        return readout(x_BTD, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """The matrix ``[V, D]`` that turns hidden states into logits."""
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight

    def make_caches(self, capacity: int, rollback: int = 0) -> list[LayerCache]:
        """Empty memories for sequences of up to ``capacity`` tokens, one for each layer."""
        return [block.mixer.make_cache(capacity, rollback) for block in self.model.blocks()]
