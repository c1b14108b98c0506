"""The causal language model."""

# Shape suffixes: B batch, T new positions, D model width, V vocabulary.

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from cirilla_cli.model.block import BLOCKS, Block
from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.config import DecoderConfig, StackConfig
from cirilla_cli.model.layout import Needs, SequenceLayout
from cirilla_cli.model.mtp import shifted
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import MultiToken, Readout

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
    ) -> tuple[Tensor, Tensor]:
        """Hidden states ``[B, T, D]`` before the last block, and after it and the final norm."""
        x_BTD = before_BTD = self.embed(tokens_BT, layout)
        layout = layout.prepared(self.needs, x_BTD.dtype)
        for i, block in enumerate(self.blocks()):
            before_BTD = x_BTD
            x_BTD = block.through(x_BTD, layout, None if caches is None else caches[i], tally)
        return before_BTD, self.norm(x_BTD)

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
        self.mtp = config.mtp.build(config) if config.mtp else None

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
        before_BTD, x_BTD = self.model(tokens_BT, layout, caches, tally)
        if isinstance(readout, MultiToken):
            ahead = self._ahead(before_BTD, x_BTD, tokens_BT, layout, tally)
            return readout.of_all([self._scaled(h) for h in ahead], self.head_weight)
        return self.read(x_BTD, readout)

    def read(self, final_BTD: Tensor, readout: Readout[Out]) -> Out:
        """What ``readout`` makes of final hidden states, those of steps ahead too."""
        return readout(self._scaled(final_BTD), self.head_weight)

    def _ahead(
        self, before_BTD: Tensor, x_BTD: Tensor, tokens_BT: Tensor, layout: SequenceLayout, tally: Tally | None
    ) -> list[Tensor]:
        """Final hidden states of the model and of each of its steps ahead, the true tokens given."""
        assert self.mtp is not None, "the model predicts no tokens beyond the next"
        prepared, states = layout.prepared(self.mtp.needs, x_BTD.dtype), [x_BTD]
        for i in range(len(self.mtp.steps)):
            ahead_BTD = self.model.embed(shifted(tokens_BT, i + 1, 0), layout)
            start_BTD = self.mtp.before(before_BTD, states)
            states.append(self.mtp.step(i)(start_BTD, ahead_BTD, prepared, None, tally))
        return states

    def _scaled(self, x_BTD: Tensor) -> Tensor:
        return x_BTD if self.config.logit_scale == 1.0 else x_BTD * self.config.logit_scale

    @property
    def head_weight(self) -> Tensor:
        """The matrix ``[V, D]`` that turns hidden states into logits."""
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight

    def make_caches(self, capacity: int, rollback: int = 0) -> list[LayerCache]:
        """Empty memories for sequences of up to ``capacity`` tokens, one for each layer."""
        return [block.mixer.make_cache(capacity, rollback) for block in self.model.blocks()]
