"""Work on whole matrices whose rows lie spread over processes: each process does it for some of the matrices."""

# Shape suffixes: G matrices of one shape, M rows, N columns, R rows that lie in one process.

import sys
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor


def is_whole(tensor: Tensor) -> bool:
    """Whether all of a tensor lies in this process."""
    # Importing the class of spread tensors takes a third as long as torch; whoever spread one has imported it.
    spread = sys.modules.get("torch.distributed.tensor")
    return spread is None or not isinstance(tensor, spread.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process, sharing its memory."""
    if is_whole(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def own_rows(values_M: Tensor, parameter: Tensor) -> Tensor:
    """Of one number a row, those whose rows of the parameter lie in this process."""
    if is_whole(parameter):
        return values_M
    most = -(-len(values_M) // dist.get_world_size())
    return values_M[dist.get_rank() * most :][:most]


def of_whole(
    work: Callable[[Tensor], Tensor], parts: Sequence[Tensor], parameters: Sequence[Tensor]
) -> Sequence[Tensor]:
    """What ``work`` makes of whole matrices ``[G, M, N]``, as the parts that belong to this process.

    Args:
        parts: of equally shaped matrices, each the rows ``[R, N]`` that its parameter has here.
        parameters: whether they are spread, by rows.
    """
    if is_whole(parameters[0]):
        return work(torch.stack(list(parts))).unbind()
    n_rows, n_columns = parameters[0].shape
    return _Exchange(len(parts), n_rows, n_columns).done(work, parts)


class _Exchange:
    """G matrices, the first of which goes whole to the first process, the second to the second, and so on."""

    def __init__(self, count: int, n_rows: int, n_columns: int) -> None:
        self.columns, self.size, self.rank = n_columns, dist.get_world_size(), dist.get_rank()
        most = -(-n_rows // self.size)
        self.rows = [max(0, min(most, n_rows - r * most)) for r in range(self.size)]
        """Rows of every matrix in each process, as FSDP cuts them."""
        self.owned = [len(range(r, count, self.size)) for r in range(self.size)]
        """Matrices that go to each process."""

    def done(self, work: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        """Bring matrices together, work, and give their rows back."""
        here, own = self.rows[self.rank], self.owned[self.rank]
        sent = torch.cat([part.flatten() for r in range(self.size) for part in parts[r :: self.size]])
        given = self._exchanged(sent, [n * here for n in self.owned], [own * rows for rows in self.rows])
        pieces = [piece.view(own, -1, self.columns) for piece in given if piece.numel()]
        made_GMN = work(torch.cat(pieces, dim=1)) if pieces else sent.new_zeros(0, sum(self.rows), self.columns)
        ends = list(accumulate(self.rows, initial=0))
        back = torch.cat([made_GMN[:, a:b].flatten() for a, b in zip(ends, ends[1:], strict=False)])
        taken = self._exchanged(back, [own * rows for rows in self.rows], [n * here for n in self.owned])
        by_owner = [piece.view(-1, here, self.columns) if here else None for piece in taken]
        out = []
        for j, part in enumerate(parts):
            found = by_owner[j % self.size]
            out.append(part if found is None else found[j // self.size])
        return out

    def _exchanged(self, sent: Tensor, to_each: Sequence[int], from_each: Sequence[int]) -> Sequence[Tensor]:
        """What every process sent to this one; counts are in rows."""
        taken, given = ([n * self.columns for n in counts] for counts in (from_each, to_each))
        received = sent.new_empty(sum(taken))
        dist.all_to_all_single(received, sent.contiguous(), taken, given)
        return torch.split(received, taken)
