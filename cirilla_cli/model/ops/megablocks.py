"""Experts through megablocks' dropless kernels, where that package can be had; the weights stay ours.

A layer's `Experts.product` may be set to what `megablocks_product` returns. The package is an argument: what
`installed` finds, or the module of the same names from the Hugging Face kernel hub (`kernels-community/megablocks`).
"""

# Shape suffixes: M tokens, K experts of each, E experts, D model width, F inner width, G = 2 F, R = E F.

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cirilla_cli.model.ops.grouped import ExpertsProduct


def installed() -> Any | None:
    """`Arguments` and `ParallelDroplessMLP` of the installed package; None where it cannot be imported."""
    try:
        from megablocks.layers.arguments import Arguments  # type: ignore[import-not-found]
        from megablocks.layers.dmoe import ParallelDroplessMLP  # type: ignore[import-not-found]
    except (ImportError, OSError, RuntimeError, AssertionError):  # the last two where torch has no CUDA
        return None
    return SimpleNamespace(Arguments=Arguments, ParallelDroplessMLP=ParallelDroplessMLP)


def megablocks_product(package: Any, *, implementation: str = "grouped") -> ExpertsProduct:
    """megablocks' experts as a drop-in for `experts_grouped`, on CUDA in bfloat16; routers and losses stay ours.

    Args:
        package: has `Arguments` and `ParallelDroplessMLP`.
        implementation: of its products: ``grouped`` wants the package grouped_gemm, ``sparse`` a Triton before 3.2.
    """
    built: dict[tuple[int, ...], nn.Module] = {}

    def product(x_MD: Tensor, experts_MK: Tensor, weights_MK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
        E, D, F = down_EDF.shape
        shape = (E, D, F, experts_MK.shape[1])
        if shape not in built:
            given = arguments(*shape, implementation=implementation)
            built[shape] = package.ParallelDroplessMLP(package.Arguments(**given))
        scores = x_MD.new_zeros(len(x_MD), E)  # only its own balance loss would look at them
        given_weights = weights_MK.to(x_MD.dtype)
        out: Tensor = functional_call(
            built[shape], weights_of(gate_up_EGD, down_EDF), (x_MD[:, None], scores, given_weights, experts_MK)
        )
        return out.view_as(x_MD)

    return product


def arguments(n_experts: int, d_model: int, d_ff: int, top_k: int, *, implementation: str) -> dict[str, Any]:
    """What its `Arguments` are told: gated experts without biases, none of its own losses.

    Its own weights are never used, so they are made on the meta device.
    """
    return {
        "hidden_size": d_model, "ffn_hidden_size": d_ff, "moe_num_experts": n_experts, "moe_top_k": top_k,
        "mlp_type": "glu", "mlp_impl": implementation, "activation_fn": torch.nn.functional.silu, "bias": False,
        "return_bias": False, "fp16": False, "bf16": True, "device": torch.device("meta"), "moe_loss_weight": 0.0,
        "moe_zloss_weight": 0.0,
    }  # fmt: skip


def weights_of(gate_up_EGD: Tensor, down_EDF: Tensor) -> dict[str, Tensor]:
    """Ours as its parameters: gate is ``w1``, up is ``v1``, down transposed is ``w2``, experts below each other."""
    gate_EFD, up_EFD = gate_up_EGD.chunk(2, dim=1)
    return {
        "mlp.w1": gate_EFD.flatten(0, 1), "mlp.v1": up_EFD.flatten(0, 1), "mlp.w2": down_EDF.mT.flatten(0, 1)
    }  # fmt: skip
