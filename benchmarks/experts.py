"""Mixture of experts on a CPU: the grouped product against a loop over experts that are modules of their own.

    python benchmarks/experts.py [THREADS]

The same weights and the same choices, forward and backward, all gradients; 16 experts, and the same numbers cut into
64 finer ones, at width 256. Both are timed in turn, and the best of each is what it takes; printed are milliseconds
and the ratio. On CUDA, where there is one, the same in bfloat16 with wider experts.
"""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cirilla_cli.model.ops.grouped import experts_grouped

ROUNDS = 12


class Expert(nn.Module):
    """A gated feed-forward of three matrices."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The output for tokens ``[m, D]``."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def loop(experts: nn.ModuleList, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What most small implementations do: each expert in turn takes its tokens out, and adds its output back in."""
    out = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        token, choice = torch.where(chosen == e)
        if len(token):
            out.index_add_(0, token, expert(x[token]) * weights[token, choice, None].to(x.dtype))
    return out


def milliseconds(forward: Callable[[], Tensor], leaves: list[Tensor], device: str) -> float:
    """One forward and backward pass."""
    for leaf in leaves:
        leaf.grad = None
    _wait(device)
    started = time.perf_counter()
    out = forward()
    out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
    _wait(device)
    return 1000 * (time.perf_counter() - started)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare(
    tokens: int, d_model: int, d_ff: int, n_experts: int, top_k: int, dtype: torch.dtype, device: str
) -> tuple[float, float]:
    """Milliseconds of the loop and of the grouped product, after their outputs were found equal."""
    torch.manual_seed(0)
    experts = nn.ModuleList(Expert(d_model, d_ff) for _ in range(n_experts)).to(device, dtype)
    up = torch.stack([torch.cat([e.gate_proj.weight, e.up_proj.weight]) for e in experts]).detach().requires_grad_()  # type: ignore[list-item]
    down = torch.stack([e.down_proj.weight for e in experts]).detach().requires_grad_()  # type: ignore[misc]
    x = torch.randn(tokens, d_model, device=device, dtype=dtype, requires_grad=True)
    probabilities, chosen = torch.randn(tokens, n_experts, device=device).softmax(-1).topk(top_k)
    weights = probabilities.requires_grad_()

    def one() -> Tensor:
        return loop(experts, x, chosen, weights)

    def grouped() -> Tensor:
        return experts_grouped(x, chosen, weights, up, down)

    torch.testing.assert_close(one(), grouped(), rtol=0.02, atol=2e-5 if dtype == torch.float32 else 0.02)
    apart, together = [x, weights, *experts.parameters()], [x, weights, up, down]
    times = [(milliseconds(one, apart, device), milliseconds(grouped, together, device)) for _ in range(ROUNDS)]
    return min(a for a, _ in times), min(b for _, b in times)


def show(
    device: str, width: int, sizes: list[tuple[int, int, int]], tokens: list[int], dtypes: list[torch.dtype]
) -> None:
    """A line for each size."""
    for dtype in dtypes:
        for n_experts, top_k, d_ff in sizes:
            for n in tokens:
                apart, grouped = compare(n, width, d_ff, n_experts, top_k, dtype, device)
                print(
                    f"{device} {str(dtype)[6:]:8} {n:5} tokens, {top_k} of {n_experts:2} experts {width} x {d_ff}: "
                    f"loop {apart:6.1f} ms, grouped {grouped:6.1f} ms, ratio {apart / grouped:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    show("cpu", 256, [(16, 2, 512), (64, 8, 128)], [512, 2048], [torch.float32, torch.bfloat16])
    if torch.cuda.is_available():
        show("cuda", 1024, [(16, 2, 2048), (64, 8, 512)], [4096, 16384], [torch.bfloat16])
