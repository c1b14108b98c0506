"""Whatever stands in a config.json, it is read or refused in words: no traceback, no exhausted memory."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from cirilla_cli.errors import CirillaError
from cirilla_cli.hub.families import FAMILIES, family_in, from_hf, plan_of, to_disk
from cirilla_cli.hub.read import read_folder
from cirilla_cli.model.config import ClassifierConfig
from cirilla_cli.model.init import fresh

BASE = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "initializer_range": 0.02, "hidden_act": "silu", "rope_theta": 5000.0, "architectures": ["X"], "dtype": "float32",
}  # fmt: skip
ROPES = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0, "beta_slow": 0.5, "mscale": 0.7,
             "mscale_all_dim": 0.9, "original_max_position_embeddings": 8, "truncate": False},
    "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8},
    "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
}  # fmt: skip
ALL = ["full_attention", "sliding_attention"]
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**BASE, "rope_scaling": ROPES["llama3"], "attention_bias": True, "mlp_bias": False, "pretraining_tp": 1},
    "mistral": {**BASE, "sliding_window": 5, "head_dim": 4, "layer_types": ALL[1:] * 2, "rope_scaling": ROPES["yarn"]},
    "qwen3": {
        **BASE, "head_dim": 8, "layer_types": ALL, "use_sliding_window": True, "sliding_window": 5,
        "max_window_layers": 1, "attention_bias": False, "rope_parameters": ROPES["linear"],
    },
    "mixtral": {
        **BASE, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None, "layer_types": ALL[:1] * 2,
    },
    "qwen3_moe": {
        **BASE, "head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "norm_topk_prob": True, "mlp_only_layers": [0], "decoder_sparse_step": 1, "use_sliding_window": False,
    },
    "deepseek_v3": {
        **BASE, "num_key_value_heads": 4, "q_lora_rank": 6, "kv_lora_rank": 8, "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "moe_intermediate_size": 8, "n_shared_experts": 1, "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.5, "num_nextn_predict_layers": 1, "norm_topk_prob": True, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "moe_layer_freq": 1, "rope_interleave": True, "attention_bias": False,
        "rope_scaling": ROPES["yarn"],
    },
    "granitemoehybrid": {
        **BASE, "layer_types": ["mamba", "attention"], "num_local_experts": 3, "num_experts_per_tok": 2,
        "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 6, "mamba_expand": 2, "mamba_n_groups": 2,
        "mamba_chunk_size": 4, "mamba_d_conv": 3, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "shared_intermediate_size": 12, "embedding_multiplier": 3.0, "residual_multiplier": 0.7,
        "logits_scaling": 3.0, "attention_multiplier": 0.3, "position_embedding_type": "rope",
        "time_step_limit": [0.01, 0.6],
    },
    "gpt2": {
        "vocab_size": 40, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "tie_word_embeddings": True, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    "modernbert": {
        **BASE, "hidden_activation": "gelu", "norm_eps": 1e-5, "norm_bias": False, "attention_bias": False,
        "mlp_bias": False, "local_attention": 6, "global_attn_every_n_layers": 2, "layer_types": ALL,
        "classifier_activation": "gelu", "classifier_bias": False, "decoder_bias": True, "local_rope_theta": 100.0,
        "rope_parameters": {"full_attention": ROPES["linear"], "sliding_attention": {"rope_type": "default"}},
    },
}  # fmt: skip
ODD: list[Any] = [None, "x", -1, 0, 1, 3, 0.5, 1e30, 10**9, 10**400, [], {}, True, False, math.nan, math.inf,
                  [[1], "x", None], {"a": {"b": []}}, ["full_attention", 1]]  # fmt: skip
"""Values of every kind."""
NAMELESS: list[Any] = [{"0": "a", "1": "a"}, {"0": "", "1": "a"}, {"0": " ", "1": "a"}]
"""Names of labels that tell nothing apart."""


def places(values: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key, those of objects inside included."""
    for key, value in values.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from places(value, (*at, key))


def changed(values: dict[str, Any], at: tuple[str, ...], value: Any) -> dict[str, Any]:
    head, *rest = at
    return {**values, head: changed(values[head], tuple(rest), value) if rest else value}


def write(folder: Path, values: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every family, as its config.json says."""
    made = {}
    for model_type, values in CONFIGS.items():
        folder = made[model_type] = tmp_path_factory.mktemp(model_type, numbered=False)
        full = {"model_type": model_type, **values}
        config = from_hf(full, folder)
        own = fresh(config, seed=0).state_dict()
        disk = to_disk(plan_of(family_in(full, folder), config, own), own)
        save_file({name: tensor.clone().contiguous() for name, tensor in disk.items()}, folder / "model.safetensors")
    return made


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """A gigabyte more than now and no more, where the system can be told."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_every_family_is_among_them(folders: dict[str, Path]) -> None:
    assert {family.model_type for family in FAMILIES} == set(CONFIGS)
    for model_type, folder in folders.items():
        write(folder, {"model_type": model_type, **CONFIGS[model_type]})
        read_folder(folder)


def outcome(folder: Path, full: dict[str, Any]) -> tuple[str, str]:
    """What becomes of a config.json: refused itself, its weights refused, or read; and in which words."""
    write(folder, full)
    try:
        found = from_hf(full, folder / "config.json")
    except CirillaError as error:
        return "refused", str(error)
    except Exception as error:
        return "traceback", repr(error)
    if found == from_hf({"model_type": folder.name, **CONFIGS[folder.name]}, folder):
        return "read", ""
    try:
        read_folder(folder)
    except CirillaError as error:
        return "weights", str(error)
    except Exception as error:
        return "traceback", repr(error)
    return "read", ""


@pytest.mark.parametrize("model_type", CONFIGS)
def test_any_value_of_any_key_is_read_or_refused_by_name(model_type: str, folders: dict[str, Path]) -> None:
    folder, values = folders[model_type], CONFIGS[model_type]
    known = {"model_type", *values, *family_in({"model_type": model_type}, folder).defaults}
    counts, wrong = Counter[str](), []
    for at in [("model_type",), *places(values)]:
        for value in ODD:
            what, said = outcome(folder, changed({"model_type": model_type, **values}, at, value))
            counts[what] += 1
            named = [re.match(r".*config\.json: `([^`.]+)[^`]*` is .+: expected .+", line) for line in said.split("\n")]
            by_name = all(match and match[1] in known for match in named) and len(said) < 2000
            by_size = "weights of another model" in said or "config.json describes a model of" in said
            if what == "traceback" or (what == "refused" and not by_name) or (what == "weights" and not by_size):
                wrong.append((at, value, what, said))
    assert not wrong, "\n".join(map(str, wrong[:40]))
    assert min(counts["read"], counts["weights"]) > 3
    assert counts["refused"] > 200


@pytest.mark.parametrize("model_type", ["qwen3", "modernbert"])
@pytest.mark.parametrize("key", ["id2label", "num_labels", "classifier_pooling", "problem_type"])
def test_any_value_of_a_classifiers_own_keys_is_read_or_refused_by_name(model_type: str, key: str) -> None:
    own = {"problem_type": "single_label_classification", "classifier_pooling": "mean", "num_labels": 2}
    labels = {} if key == "num_labels" else {"id2label": {"0": "a", "1": "b"}}
    named = {"model_type": model_type, "architectures": ["XForSequenceClassification"]}
    values = {**CONFIGS[model_type], **own, **named}
    assert isinstance(from_hf({**values, **labels}, Path("config.json")), ClassifierConfig)
    for value in [*ODD, {"0": [], "1": {}}, {"0": "a", "00": "b"}, {"1": "a", "2": "b"}, *NAMELESS]:
        try:
            from_hf({**values, **labels, key: value}, Path("config.json"))
        except CirillaError as error:
            said = str(error)
        else:
            said = ""
        assert not said or re.match(f"config.json: `(id2label|{key})` is ", said), (value, said)
        assert key != "id2label" or value not in NAMELESS or "names that differ, none of them empty" in said


def refusal(model_type: str, change: dict[str, Any]) -> CirillaError:
    with pytest.raises(CirillaError) as caught:
        from_hf({"model_type": model_type, **CONFIGS[model_type], **change}, Path("config.json"))
    return caught.value


SAID = [
    ("mixtral", "num_experts_per_tok", 4, "at most 3, as `num_local_experts` says"),
    ("qwen3_moe", "num_experts_per_tok", 4, "at most 3, as `num_experts` says"),
    ("granitemoehybrid", "num_experts_per_tok", 4, "at most 3, as `num_local_experts` says"),
    ("deepseek_v3", "num_experts_per_tok", 3, "at most 2, as `topk_group` says"),
    ("deepseek_v3", "n_group", 4, "a divisor of n_routed_experts (4) that leaves groups of two or more"),
    ("deepseek_v3", "topk_group", 3, "at most 2, as `n_group` says"),
    ("deepseek_v3", "first_k_dense_replace", 2, "at most 1, as `num_hidden_layers` says"),
    ("deepseek_v3", "num_nextn_predict_layers", 32, "less than max_position_embeddings"),
    ("deepseek_v3", "qk_rope_head_dim", 3, "an even number"),
    ("qwen3_moe", "mlp_only_layers", [0, 1], "a list of the first layers, counted from 0, fewer than all 2"),
    ("llama", "num_key_value_heads", 3, "a divisor of num_attention_heads (4)"),
    ("llama", "num_attention_heads", 6, "a divisor of hidden_size in a Llama"),
    ("llama", "hidden_size", 20, "num_attention_heads (4) times an even number, as head_dim is absent"),
    ("llama", "hidden_size", 0, "a positive whole number"),
    ("llama", "vocab_size", -1, "a positive whole number"),
    ("llama", "num_hidden_layers", 10**9, "at most 10000"),
    ("llama", "rope_scaling.high_freq_factor", 1.0, "more than low_freq_factor (1)"),
    ("llama", "rope_scaling.factor", 0.5, "a number, 1 or more"),
    ("mistral", "rope_scaling.beta_fast", 0.1, "at least beta_slow (0.5)"),
    ("mistral", "rope_theta", 1.0, "more than 1, where yarn is used"),
    ("mistral", "layer_types", "full", "a list, for each of 2 layers full_attention or sliding_attention"),
    ("gpt2", "n_head", 3, "a divisor of n_embd (16)"),
    ("granitemoehybrid", "mamba_n_groups", 3, "a divisor of mamba_n_heads (4)"),
    ("granitemoehybrid", "time_step_limit", [0.6, 0.1], "two numbers, 0 or more, the second the greater"),
    ("modernbert", "num_attention_heads", 5, "a divisor of hidden_size that leaves an even width for each"),
]


@pytest.mark.parametrize(("model_type", "key", "value", "expected"), SAID)
def test_values_that_do_not_go_together_are_named_once_as_the_file_names_them(
    model_type: str, key: str, value: Any, expected: str
) -> None:
    error = refusal(model_type, changed(CONFIGS[model_type], tuple(key.split(".")), value))
    assert str(error) == f"config.json: `{key}` is {value!r}: expected {expected}"
    hint = "docs/model/families.md" if key == "mlp_only_layers" else "damaged, or was changed by hand: download"
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("model_type", "change", "hint"),
    [
        ("llama", {"model_type": "bloom"}, "models of these types can be read: llama, mistral"),
        ("llama", {"hidden_act": "gelu"}, "docs/model/families.md says what can be read of this architecture"),
        ("gpt2", {"activation_function": "relu"}, "docs/model/families.md says what can be read of this architecture"),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "docs/model/families.md says what can be read"),
    ],
)  # fmt: skip
def test_the_hint_fits_the_fault(model_type: str, change: dict[str, Any], hint: str) -> None:
    assert hint in str(refusal(model_type, change).hint)


def test_a_number_that_a_file_tells_the_reference_otherwise_is_kept(folders: dict[str, Path]) -> None:
    """Step sizes without an upper bound, as transformers writes them where JSON has no infinity."""
    folder = folders["granitemoehybrid"]
    for limit in ([0.01, math.inf], [0.01, {"__float__": "Infinity"}]):
        values = {"model_type": folder.name, **CONFIGS[folder.name], "time_step_limit": limit}
        mamba = from_hf(json.loads(json.dumps(values)), folder).layer_mixers()[0]
        assert (mamba.dt_min, mamba.dt_max) == (0.01, None)
