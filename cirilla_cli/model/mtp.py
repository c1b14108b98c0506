"""Predicting more than the next token: extra steps on top of a decoder, for training and for drafting."""

# Shape suffixes: B batch, T positions, D model width.

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cirilla_cli.model.block import BLOCKS, Block
from cirilla_cli.model.cache import LayerCache
from cirilla_cli.model.config import ChainedMTPConfig, DecoderConfig, ParallelMTPConfig
from cirilla_cli.model.layout import Needs, SequenceLayout
from cirilla_cli.model.parts import Tally


class Step(nn.Module, ABC):
    """What predicts one token further ahead: a block of its own and a norm; embedding and head are the model's."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        D, last = config.d_model, config.n_layers - 1
        self.block: Block = BLOCKS[config.norm_placement](
            config, config.layer_mixers()[last], config.layer_mlps()[last], last
        )
        self.norm = config.norm.build(D)

    @abstractmethod
    def entry(self, before_BTD: Tensor, ahead_BTD: Tensor) -> Tensor:
        """What enters the block, from earlier hidden states and the embedding of the token predicted before."""

    def forward(
        self, before_BTD: Tensor, ahead_BTD: Tensor, layout: SequenceLayout, cache: LayerCache | None = None,
        tally: Tally | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states ``[B, T, D]`` for the head; ``layout`` is prepared for `needs`."""
        x_BTD = self.block.through(self.entry(before_BTD, ahead_BTD), layout, cache, tally)
        out: Tensor = self.norm(x_BTD)
        return out


class ChainedStep(Step):
    """W [norm(embedding); norm(hidden)], then a block (DeepSeek-V3, arXiv:2412.19437, equations 21 to 23).

    Named and ordered as in DeepSeek's checkpoints; the paper writes the two parts the other way round.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        D = config.d_model
        self.enorm, self.hnorm = config.norm.build(D), config.norm.build(D)
        self.eh_proj = nn.Linear(2 * D, D, bias=False)

    def entry(self, before_BTD: Tensor, ahead_BTD: Tensor) -> Tensor:
        """Both, normalised, side by side, and brought to the model's width."""
        out: Tensor = self.eh_proj(torch.cat([self.enorm(ahead_BTD), self.hnorm(before_BTD)], dim=-1))
        return out


class ParallelStep(Step):
    """A block on the trunk, beside the model's own last one (Gloeckle et al., 2024, arXiv:2404.19737, section 2)."""

    def entry(self, before_BTD: Tensor, ahead_BTD: Tensor) -> Tensor:
        """The trunk's hidden states as they are: the token between is not known to this step."""
        return before_BTD


class MTP(nn.Module, ABC):
    """Steps that predict the tokens after the next, first to last."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.needs = Needs.of_all(step.block.mixer.needs for step in steps)

    @abstractmethod
    def before(self, trunk_BTD: Tensor, states: Sequence[Tensor]) -> Tensor:
        """What the next step begins from.

        Args:
            trunk_BTD: hidden states before the model's last block.
            states: the model's final hidden states, normalised, and what the steps so far have made of them.
        """

    def step(self, index: int) -> Step:
        """The step that predicts ``index + 2`` tokens ahead."""
        step = self.steps[index]
        assert isinstance(step, Step)
        return step

    def make_caches(self, capacity: int, rollback: int = 0) -> list[LayerCache]:
        """Empty memories, one for each step."""
        return [self.step(i).block.mixer.make_cache(capacity, rollback) for i in range(len(self.steps))]


class ChainedMTP(MTP):
    """Each step goes on from the one before, so the chain of causes is kept (arXiv:2412.19437, section 2.2)."""

    def __init__(self, section: ChainedMTPConfig, config: DecoderConfig) -> None:
        super().__init__([ChainedStep(config) for _ in range(section.depth)])

    def before(self, trunk_BTD: Tensor, states: Sequence[Tensor]) -> Tensor:
        """What the last step made."""
        return states[-1]


class ParallelMTP(MTP):
    """All steps start from the trunk, independent of each other (arXiv:2404.19737, section 2)."""

    def __init__(self, section: ParallelMTPConfig, config: DecoderConfig) -> None:
        super().__init__([ParallelStep(config) for _ in range(section.depth)])

    def before(self, trunk_BTD: Tensor, states: Sequence[Tensor]) -> Tensor:
        """The trunk."""
        return trunk_BTD


def shifted(values_BT: Tensor, by: int, fill: int) -> Tensor:
    """``values_BT`` moved ``by`` places to the front; what enters at the end is ``fill``."""
    return nn.functional.pad(values_BT[:, by:], (0, by), value=fill)
