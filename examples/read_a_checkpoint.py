"""What is in a Hugging Face folder: its architecture as data, piece by piece, and what it costs.

    python examples/read_a_checkpoint.py FOLDER

No transformers needed: config.json and safetensors are read by one table a family (docs/model/families.md).
"""

import sys

from cirilla_cli import load_model
from cirilla_cli.model.count import cache_bytes, count, forward_flops_per_token


def main(folder: str) -> None:
    """Print the model's layers and its numbers."""
    loaded = load_model(folder)
    config = loaded.config
    layers = zip(config.layer_mixers(), config.layer_mlps(), strict=True)
    for number, (mixer, mlp) in enumerate(layers):
        print(f"layer {number:2d}  {mixer.kind:14s} {mlp.kind}")
    counted = count(config)
    print(f"{counted.parameters:,} parameters, {counted.active:,} active for one token")
    print(f"{forward_flops_per_token(config, config.context_length / 2):,.0f} FLOPs a token at half its context")
    print(
        f"{cache_bytes(config, config.context_length):,} bytes of cache for {config.context_length} tokens in bfloat16"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
