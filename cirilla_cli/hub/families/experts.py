"""Experts on disk: a file entry for each expert's matrix, where ours are stacked."""

from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rules import Cut, Rule, Unstack, rule
from cirilla_cli.model.config import DecoderConfig, EncoderConfig
from cirilla_cli.model.routing import SequenceBalanceConfig, SoftmaxRouterConfig
from cirilla_cli.model.sections import MoEConfig

_OURS = "model.layers.{i}.mlp.experts"


def expert_rules(place: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """Rules for experts under ``place`` in a layer, each with these three matrices."""
    disk = f"model.layers.{{i}}.{place}.experts.{{e}}"
    return (
        rule(f"{_OURS}.gate_up_proj", [f"{disk}.{gate}.weight", f"{disk}.{up}.weight"], Cut(2, 1), Unstack(2)),
        rule(f"{_OURS}.down_proj", f"{disk}.{down}.weight", Unstack()),
    )


def softmax_experts(keys: Keys, *named: str, d_ff: int, renormalise: bool = True) -> MoEConfig:
    """Experts behind a softmax, their number by the key ``named``.

    Should they be trained on, a loss within each row keeps them balanced.
    """
    count = keys.count(*named)
    return MoEConfig(
        n_experts=count,
        top_k=keys.count("num_experts_per_tok", most=count, by=named),
        d_ff=d_ff,
        router=SoftmaxRouterConfig(renormalise=renormalise),
        balance=SequenceBalanceConfig(weight=1e-2),
    )


def experts_of(config: DecoderConfig | EncoderConfig) -> MoEConfig:
    """The experts of the layers that have them."""
    assert isinstance(config.mlp, MoEConfig)
    return config.mlp
