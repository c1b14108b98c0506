"""Hugging Face folders read by us give what transformers gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cirilla_cli.errors import CirillaError
from cirilla_cli.hub.read import read_folder
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits

Save = Callable[..., tuple[Any, Path]]

SIZES = [
    pytest.param("Llama", {}, id="llama"),
    pytest.param("Llama", {"tie_word_embeddings": True}, id="llama-tied"),
    pytest.param("Llama", {"head_dim": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}, id="llama-wide-heads"),
    pytest.param("Qwen3", {"head_dim": 16}, id="qwen3"),
    pytest.param(
        "Qwen3",
        {"head_dim": 16, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        id="qwen3-windows-above-layer-1",
    ),
    pytest.param(
        "Qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        id="qwen3-layer-types",
    ),
    pytest.param("Mistral", {"sliding_window": None}, id="mistral-no-window"),
    pytest.param("Mistral", {"sliding_window": 5}, id="mistral-window"),
]


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        tokens = torch.tensor([ids])
        layout = SequenceLayout.rows(1, len(ids))
        result: torch.Tensor = model.eval()(tokens, layout, readout=LastLogits(len(ids)))[0]
        return result


def greedy(step: Callable[[list[int]], torch.Tensor], ids: list[int], n: int) -> list[int]:
    ids = list(ids)
    for _ in range(n):
        ids.append(int(step(ids)[-1].argmax()))
    return ids


def hf_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(torch.tensor([ids])).logits[0]
        return result


@pytest.mark.parametrize(("kind", "keys"), SIZES)
def test_a_transformers_model_read_by_us_gives_its_logits_and_greedy_tokens(
    save_hf: Save, kind: str, keys: dict[str, Any]
) -> None:
    theirs, folder = save_hf(kind, **keys)
    ours = read_folder(folder).model
    ids = torch.randint(0, 300, (23,), generator=torch.Generator().manual_seed(1)).tolist()
    torch.testing.assert_close(logits_of(ours, ids), hf_logits(theirs, ids), rtol=0, atol=1e-5)
    assert greedy(lambda x: logits_of(ours, x), ids, 8) == greedy(lambda x: hf_logits(theirs, x), ids, 8)


def test_windows_of_upper_layers_are_read_where_layer_types_are_not_written(save_hf: Save) -> None:
    theirs, folder = save_hf(
        "Qwen3", head_dim=16, use_sliding_window=True, sliding_window=5, max_window_layers=1, num_hidden_layers=2
    )
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("layer_types") == ["full_attention", "sliding_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    ids = list(range(23))
    ours = read_folder(folder)
    assert [m.window for m in ours.config.layer_mixers()] == [None, 5]
    torch.testing.assert_close(logits_of(ours.model, ids), hf_logits(theirs, ids), rtol=0, atol=1e-5)


def test_a_window_matters_in_the_texts_used_here(save_hf: Save) -> None:
    _, folder = save_hf("Mistral", sliding_window=5)
    ids = list(range(23))
    windowed = logits_of(read_folder(folder).model, ids)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": None}))
    assert (logits_of(read_folder(folder).model, ids) - windowed).abs().max() > 1e-2


def test_sharded_weights_are_read_whole(save_hf: Save) -> None:
    theirs, folder = save_hf("Llama", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    ids = [5, 7, 250, 3]
    torch.testing.assert_close(logits_of(read_folder(folder).model, ids), hf_logits(theirs, ids), rtol=0, atol=1e-5)


def test_the_model_of_a_bfloat16_folder_is_float32_unless_asked_otherwise(save_hf: Save) -> None:
    theirs, folder = save_hf("Llama")
    theirs.to(torch.bfloat16).save_pretrained(folder)
    assert {p.dtype for p in read_folder(folder).model.parameters()} == {torch.float32}
    half = read_folder(folder, dtype=torch.bfloat16).model
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.model.norm.weight, theirs.model.norm.weight)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_tied_head_on_disk_is_a_copy_or_a_head_of_its_own(save_hf: Save) -> None:
    _, folder = save_hf("Llama", tie_word_embeddings=True)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert read_folder(folder).config.tie_embeddings
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    loaded = read_folder(folder)
    assert not loaded.config.tie_embeddings
    assert loaded.model.lm_head is not None


def test_rotary_frequencies_of_old_checkpoints_are_passed_over(save_hf: Save) -> None:
    _, folder = save_hf("Llama")
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    read_folder(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "`model.layers.1.mlp.up_proj.weight` is missing"),
        (lambda t: t.pop("lm_head.weight"), "`lm_head.weight` is missing"),
        (lambda t: t.update({"x": torch.ones(1)}), "`x` is not a weight of this model"),
        (lambda t: t.update({"model.norm.weight": torch.ones(31)}), "has shape [31], the model wants [32]"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "int8"),
    ],
)
def test_wrong_weights_are_named(save_hf: Save, change: Callable[[dict[str, torch.Tensor]], None], said: str) -> None:
    _, folder = save_hf("Llama")
    rewrite(folder, change)
    with pytest.raises(CirillaError) as caught:
        read_folder(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_type": "bloom"}, ["`model_type` is 'bloom'", "llama, mistral, qwen3"]),
        ({"model_type": None}, ["`model_type` is None"]),
        ({"attention_bias": 3, "pretraining_tp": 2}, ["`attention_bias` is 3", "`pretraining_tp` is 2"]),
        ({"hidden_act": "gelu"}, ["`hidden_act` is 'gelu'"]),
        ({"rope_parameters": {"rope_type": "longrope"}}, ["`rope_parameters.rope_type` is 'longrope'"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["`rope_scaling.rope_type` is 'dynamic'"]),
        ({"rope_scaling": {"type": "linear"}}, ["`rope_scaling.factor` is None"]),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, ["one rotation for all layers"]),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["`quantization_config`"]),
        ({"hidden_size": "32"}, ["`hidden_size` is '32'"]),
        ({"num_key_value_heads": 3}, ["`num_key_value_heads` is 3: expected a divisor"]),
        ({"model_type": "qwen3", "layer_types": ["linear_attention"] * 3}, ["`layer_types`"]),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, ["for each of 3 layers"]),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 3}, ["`use_sliding_window`"]),
    ],
)
def test_models_we_have_no_shape_for_are_refused_by_key(save_hf: Save, keys: dict[str, Any], said: list[str]) -> None:
    _, folder = save_hf("Llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))
    with pytest.raises(CirillaError) as caught:
        read_folder(folder)
    assert all(text in str(caught.value) for text in said), str(caught.value)
    assert "config.json" in str(caught.value)


def test_the_old_spelling_of_the_rotary_base_is_read(save_hf: Save) -> None:
    theirs, folder = save_hf("Llama")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    ids = [5, 7, 250, 3]
    torch.testing.assert_close(logits_of(read_folder(folder).model, ids), hf_logits(theirs, ids), rtol=0, atol=1e-5)


def test_an_index_cannot_name_files_outside_its_folder(save_hf: Save) -> None:
    _, folder = save_hf("Llama")
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CirillaError, match="not in this folder"):
        read_folder(folder)


def test_a_damaged_folder_is_said_to_be_so(save_hf: Save) -> None:
    _, folder = save_hf("Llama")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CirillaError, match="cannot be read"):
        read_folder(folder)
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(CirillaError, match="not JSON"):
        read_folder(folder)


def test_pickled_weights_are_never_loaded(save_hf: Save) -> None:
    _, folder = save_hf("Llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CirillaError, match="never loaded"):
        read_folder(folder)
