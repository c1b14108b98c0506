"""The causal language model."""

# Shape suffixes: B batch, T new positions, D model width, V vocabulary.

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from cirilla_cli.model.block import Block
from cirilla_cli.model.cache import KVCache
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import Readout

Out = TypeVar("Out")


class Trunk(nn.Module):
    """Embedding, blocks and final norm, under the names Hugging Face's checkpoints use."""

    def __init__(self, config: DecoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, mixer) for mixer in config.layer_mixers())
        self.norm = config.norm.build(config.d_model)


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
        heads = [mixer.width(config.d_model) for mixer in config.layer_mixers()]
        self._ropes = {(h, m.rope_theta) for h, m in zip(heads, config.layer_mixers(), strict=True)}
        self._windows = {mixer.window for mixer in config.layer_mixers()}

    def forward(
        self,
        tokens_BT: Tensor,
        layout: SequenceLayout,
        caches: Sequence[KVCache] | None = None,
        *,
        readout: Readout[Out],
    ) -> Out:
        """Run the new tokens through every layer and end in ``readout``.

        Args:
            tokens_BT: token ids.
            layout: their positions and documents.
            caches: one for each layer, extended in place; None when nothing is remembered.
            readout: what becomes of the final hidden states.
        """
        x_BTD: Tensor = self.model.embed_tokens(tokens_BT)
        layout = layout.prepared(self._ropes, self._windows, x_BTD.dtype)
        for i, block in enumerate(self.model.layers):
            x_BTD = block(x_BTD, layout, None if caches is None else caches[i])
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return readout(self.model.norm(x_BTD), head.weight)

    def make_caches(self, capacity: int) -> list[KVCache]:
        """Empty memories for sequences of up to ``capacity`` tokens, one for each layer."""
        return [mixer_cache(block, capacity) for block in self.model.layers]


def mixer_cache(block: nn.Module, capacity: int) -> KVCache:
    """The cache of the kind that ``block``'s mixer wants."""
    assert isinstance(block, Block)
    return block.self_attn.make_cache(capacity)
