"""Writes down how torchao's AdamW in 8 bits moves made-up weights: `torchao_adamw_8bit.json`, an oracle of the tests.

pip install torchao==0.18.0 && python tests/engine/torchao_adamw_8bit.py
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from test_adamw_8bit import CONFIG, CPU, some

STEPS = 6


def theirs() -> dict[str, Any]:
    """What torchao arrives at, its arithmetic uncompiled."""
    os.environ["TORCHAO_FORCE_SKIP_LOADING_SO_FILES"] = "1"
    from torchao.optim.adam import single_param_adam
    from torchao.optim.quant_utils import create_dynamic_map
    from torchao.optim.subclass_8bit import OptimState8bit

    weights, gradients = some((64, 128), STEPS)
    now, step = weights.clone(), torch.tensor(0.0)
    kept = {
        name: OptimState8bit.zeros(weights.shape, name == "exp_avg", 256, CPU, torch.float32)
        for name in ("exp_avg", "exp_avg_sq")
    }
    for gradient in gradients:
        step += 1
        single_param_adam(
            now, gradient, step, *kept.values(), None, torch.tensor(CONFIG.lr), CONFIG.beta1, CONFIG.beta2,
            CONFIG.weight_decay, CONFIG.eps, True, False
        )  # fmt: skip
    found: dict[str, Any] = {"moved": [round(x, 6) for x in (now - weights).flatten().tolist()]}
    for name, state in kept.items():
        values = [float(f"{x:.9g}") for x in create_dynamic_map(signed=name == "exp_avg")]
        scales = [float(f"{x:.9g}") for x in state.scale.tolist()]
        found[name] = {"map": values, "codes": bytes(state.codes.flatten().tolist()).hex(), "scales": scales}
    return found


if __name__ == "__main__":
    Path(__file__).with_suffix(".json").write_text(json.dumps(theirs()) + "\n", encoding="utf-8")
