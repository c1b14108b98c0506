"""Encoders: the decoder's blocks looking both ways, trained to restore what was masked."""

# Shape suffixes: B batch, T positions, S positions with registers among them, D model width, P documents.

from typing import TypeVar

from torch import Tensor, nn

from cirilla_cli.model.config import EncoderConfig, Pooling, StackConfig
from cirilla_cli.model.decoder import Trunk
from cirilla_cli.model.heads import PredictionHead, Registers, Scores, biased, pool
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import Readout

Out = TypeVar("Out")


class Reader(nn.Module):
    """A trunk and its registers: whole documents in, a vector for each token out.

    Raises:
        ValueError: the configuration leaves the vocabulary open.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size must be known before a model can be built")
        self.model = Trunk(config, config.vocab_size)
        registers = config.registers if isinstance(config, EncoderConfig) else 0
        self.registers = Registers(registers, config.d_model) if registers else None

    def states(self, tokens_BT: Tensor, layout: SequenceLayout, tally: Tally | None = None) -> Tensor:
        """Hidden states ``[B, T, D]`` of the tokens after the final norm."""
        x_BTD = self.model.embed(tokens_BT, layout)
        if self.registers is None:
            return self._through(x_BTD, layout, tally)
        x_BSD, wide, places_BT = self.registers.before(x_BTD, layout, self.model.embedding_norm)
        x_BSD = self._through(x_BSD, wide, tally)
        return x_BSD.gather(1, places_BT[..., None].expand_as(x_BTD))

    def _through(self, x_BTD: Tensor, layout: SequenceLayout, tally: Tally | None) -> Tensor:
        layout = layout.prepared(self.model.needs, x_BTD.dtype)
        for block in self.model.blocks():
            x_BTD = block.through(x_BTD, layout, None, tally)
        out: Tensor = self.model.norm(x_BTD)
        return out

    def vectors(self, tokens_BT: Tensor, layout: SequenceLayout, pooling: Pooling = "mean") -> Tensor:
        """One vector for each document, ``[P, D]``, row by row."""
        return pool(self.states(tokens_BT, layout), layout, pooling)


class Encoder(Reader):
    """A bidirectional encoder with its masked-language-model head (Devlin et al., 2018, arXiv:1810.04805).

    The parts are chosen by the section: with layer norms, GeGLU, rotary positions and local layers it is ModernBERT
    (Warner et al., 2024, arXiv:2412.13663); post-norm with learned positions and plain GELU it is BERT.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.config = config
        self.head = PredictionHead(config)
        self.decoder = Scores(config, self.model.embed_tokens.num_embeddings)

    def forward(
        self, tokens_BT: Tensor, layout: SequenceLayout, *, readout: Readout[Out], tally: Tally | None = None
    ) -> Out:
        """Run whole documents through every layer and end in ``readout``.

        Args:
            tokens_BT: token ids, some of them masked.
            layout: their positions and documents.
            readout: what becomes of the hidden states; its targets are the tokens at their own places.
            tally: takes the sums that layers leave beside their output.
        """
        x_BTD = self.head(self.states(tokens_BT, layout, tally))
        head_VD = self.model.embed_tokens.weight if self.decoder.weight is None else self.decoder.weight
        return readout(*biased(x_BTD, head_VD, self.decoder.bias))
