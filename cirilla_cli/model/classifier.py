"""A decoder or encoder that tells documents apart."""

# Shape suffixes: B batch, T positions, D model width, P documents.

from typing import TypeVar

from torch import Tensor, nn

from cirilla_cli.model.config import ClassifierConfig, EncoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.encoder import Encoder, Reader
from cirilla_cli.model.heads import PredictionHead, biased, pool
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import Readout

Out = TypeVar("Out")


class Classifier(Reader):
    """The trunk of a model, one vector for each document, and a matrix to the classes.

    Over an encoder the vector goes through the prediction head first and classes have a bias, as in Hugging Face's
    ModernBERT, whose names the parameters have; over a decoder there is neither, as in their Llama.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config.base)
        self.config = config
        base = config.base
        self.head: nn.Module = PredictionHead(base) if isinstance(base, EncoderConfig) else nn.Identity()
        self.classifier = nn.Linear(base.d_model, len(config.labels), bias=isinstance(base, EncoderConfig))

    def forward(
        self, tokens_BT: Tensor, layout: SequenceLayout, *, readout: Readout[Out], tally: Tally | None = None
    ) -> Out:
        """Run whole documents through every layer; ``readout`` gets a row of them in place of tokens.

        Args:
            tokens_BT: token ids.
            layout: their positions and documents.
            readout: what becomes of the pooled states ``[1, P, D]``, with the classes' matrix as head.
            tally: takes the sums that layers leave beside their output.
        """
        pooled_PD = self.head(pool(self.states(tokens_BT, layout, tally), layout, self.config.pooling))
        return readout(*biased(pooled_PD[None], self.classifier.weight, self.classifier.bias))


Model = Decoder | Encoder | Classifier
"""Every whole model that can be trained and stored."""
