"""The processes that share a run: what each takes of a step, how their sums are made, and who writes.

Batches are a function of the step's number, so every process knows the whole step: counts need no exchange, and what
is exchanged is sums. `Ranks` is one process's view of the others; alone, it takes everything and changes nothing.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from cirilla_cli.checkpoint import build_model
from cirilla_cli.data.batches import TokenBatch
from cirilla_cli.engine.config import Place
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.block import Block
from cirilla_cli.model.classifier import Model
from cirilla_cli.model.parts import Exact

B = TypeVar("B", bound=TokenBatch)

_BUCKET = 16_777_216
"""Most numbers of gradients that are summed in one exchange; more would double the memory that gradients take."""

_PATIENCE = timedelta(hours=2)
"""How long processes wait for one another, as while the first tokenizes; one that dies is noticed at once."""


@dataclass(frozen=True)
class Ranks:
    """One of the processes that share a run."""

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether each holds a part of every weight, in place of all of them."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batches: Iterable[B]) -> Iterator[tuple[int, B]]:
        """This process's micro-batches with their numbers in the step; every process gets equally many.

        Where they do not come out even, the last is one row of padding, which counts nowhere: weights that are spread
        over processes come together only if all of them run the same passes.
        """
        number, first = 0, None
        for number, batch in enumerate(batches, start=1):
            first = first or batch
            if (number - 1) % self.size == self.rank:
                yield number - 1, batch
        if first is not None and self.rank >= number % self.size > 0:
            yield number + self.rank, first.blank()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Elementwise largest over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def sums(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all processes of figures ``[]`` that each has under the same names."""
        if self.size == 1 or not values:
            return dict(values)
        names = sorted(values)
        return dict(zip(names, self.sum(torch.stack([values[name].double() for name in names])).unbind(), strict=True))

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum every gradient over all processes; sharded ones were summed while they were made."""
        if self.size == 1 or self.sharded:
            return
        for bucket in _buckets(p.grad for p in model.parameters() if p.grad is not None):
            flat = self.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view_as(g) for part, g in zip(parts, bucket, strict=True)])

    def agreed(self, *flags: bool) -> list[bool]:
        """For each, whether it is so in any process; all of them go on together from here."""
        return [bool(count) for count in self.sum(torch.tensor([int(flag) for flag in flags]))]

    def told(self, text: str) -> str:
        """The first process's text."""
        if self.size == 1:
            return text
        letters = list(text.encode()) if self.leads else []
        length = self.sum(torch.tensor(len(letters)))
        said = torch.tensor(letters or [0] * int(length), dtype=torch.uint8)
        dist.broadcast(said, 0)
        return bytes(said.tolist()).decode()

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor of which this process may hold a part; where weights are sharded, all must ask for it."""
        if not self.sharded:
            return tensor
        # Not imported where nothing is sharded: it takes a third as long as torch itself.
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors by name, in the memory of the first process's CPU where they were sharded; elsewhere none."""
        if not self.sharded:
            return dict(tensors) if self.leads else {}
        kept = {}
        for name, tensor in tensors.items():
            full = self.whole(tensor)
            if self.leads:
                kept[name] = full.cpu()
        return kept

    def whole_model(self, model: Model) -> Model | None:
        """The model for the first process to use by itself; None for the others."""
        if not self.sharded:
            return model if self.leads else None
        tensors = self.gathered(model.state_dict())
        if not self.leads:
            return None
        device = next(model.parameters()).device
        return build_model(model.config, tensors, Path("the processes"), device=device).eval()

    def apart(self, model: nn.Module) -> None:
        """Give up what passes without gradient have left together of sharded weights."""
        if self.sharded:
            from torch.distributed.fsdp import FSDPModule

            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()


ALONE = Ranks()
"""A run in one process."""


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in order, as many together as an exchange takes."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@contextlib.contextmanager
def joined(place: Place, device: torch.device, *, sharded: bool) -> Iterator[Ranks]:
    """This process among those that a launcher started, found by the variables that torchrun sets (``env://``)."""
    if place.size == 1 and not sharded:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(place.local)
    alone = place.size == 1
    store = dist.HashStore() if alone else next(rendezvous("env://"))[0]  # type: ignore[attr-defined]
    dist.init_process_group(
        # Small exchanges between the CPUs keep the GPUs' queues running.
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        # A launcher that starts failed processes again may hand them the store that the failed ones have written to.
        store=PrefixStore(f"attempt-{place.attempt}", store), rank=place.rank, world_size=place.size,
        timeout=_PATIENCE,
    )  # fmt: skip
    try:
        yield Ranks(place.rank, place.size, sharded)
    finally:
        dist.destroy_process_group()


def shard(model: Model, dtype: torch.dtype, device: torch.device) -> None:
    """Spread every weight over the processes, by block, in place (FSDP2; Zhao et al., 2023, arXiv:2304.11277).

    Blocks come together in ``dtype`` for their passes, what is `Exact` in float32; gradients are summed in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    cast = exact if dtype == torch.float32 else MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for module, policy in _units(model, exact, cast):
        unit = fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(unit, FSDPModule)
        # Denominators are those of the whole step, so gradients are to be summed, not averaged.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


P = TypeVar("P")


def _units(model: Model, exact: P, cast: P) -> Iterator[tuple[nn.Module, P]]:
    """What is brought together at once, inner parts first: blocks, the rest, and within blocks what is `Exact`."""
    for module in reversed(list(model.modules())):
        if isinstance(module, Exact) and exact is not cast:
            # A convolution's weights are used without calling it: they come together with what uses, and casts, them.
            called = (child for child in module.children() if not isinstance(child, nn.Conv1d))
            yield from ((child, cast) for child in called if next(child.parameters(), None) is not None)
            yield module, exact
        elif isinstance(module, Block):
            yield module, cast
    yield model, cast


def sharded_as(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of ``value``, where the parameter it belongs to is sharded; its own device in any case."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def check_share(size: int, *, rows_per_step: int, rows_per_epoch: int) -> None:
    """Raises: CirillaError: there are more processes than rows to give them."""
    if rows_per_step < size:
        raise CirillaError(
            f"{size} processes share a step of {rows_per_step} rows: each wants one at least",
            hint=f"--nproc {rows_per_step}, or a larger train.batch_tokens",
        )
    if rows_per_epoch < size:
        raise CirillaError(
            f"{size} processes, and the training data fill {rows_per_epoch} rows: each wants one at least",
            hint=f"--nproc {rows_per_epoch}, or more data",
        )
