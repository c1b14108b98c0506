"""Every family against the reference's own class: logits, greedy tokens, files, both ways."""

import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from cirilla_cli.checkpoint import Found, Loaded
from cirilla_cli.errors import CirillaError
from cirilla_cli.hub import write
from cirilla_cli.hub.check import check, failures
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.families import FAMILIES, family_in, family_of, from_hf, plan_of, to_disk, to_ours
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.families.rules import Cut, Interleave, Join, Step, Transpose, Unstack
from cirilla_cli.hub.read import Published, read_folder
from cirilla_cli.hub.write import plan_folder, write_folder
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import NTKRopeConfig

from .conftest import VOCAB, make_config, make_model, scramble

LENGTH, NEW, CONTEXT = 24, 64, 96


@dataclass(frozen=True)
class Case:
    """A tiny model of a transformers class."""

    kind: str
    """Its classes are `{kind}Config` and `{kind}{head}`."""
    keys: dict[str, Any] = field(default_factory=dict)
    head: str = "ForCausalLM"
    becomes: str | None = None
    """The architecture it is written as, where that is another that computes the same."""
    alone: frozenset[str] = frozenset()
    """Layouts in which the reference mixes documents or padding in, and is therefore given each document alone."""

    @property
    def architecture(self) -> str:
        return f"{self.kind}{self.head}"

    @property
    def written(self) -> str:
        return self.becomes or self.architecture


PACKED = frozenset({"packed"})
LLAMA = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "beta_fast": 8.0, "beta_slow": 0.5,
    "original_max_position_embeddings": 24,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "sliding_window": 5}
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
GPT2 = {
    "vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip

MIXTRAL = {**LLAMA, "num_local_experts": 5, "num_experts_per_tok": 2}
QWEN3_MOE = {
    **LLAMA, "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}  # fmt: skip
DEEPSEEK = {
    **LLAMA, "num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6, "v_head_dim": 10, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4,
    "topk_group": 2, "moe_intermediate_size": 24, "n_shared_experts": 2, "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7, "num_nextn_predict_layers": 0,
}  # fmt: skip
DEEPSEEK_YARN = {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9}
KIMI = {
    **DEEPSEEK, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "attention_bias": True, "first_k_dense_replace": 0,
    "rope_parameters": DEEPSEEK_YARN, "tie_word_embeddings": True,
}  # fmt: skip
GRANITE = {
    **{key: value for key, value in LLAMA.items() if key != "rope_parameters"},
    "layer_types": ["mamba", "attention", "mamba"],
    "mamba_n_heads": 8, "mamba_d_state": 12, "mamba_expand": 2, "mamba_n_groups": 2, "mamba_chunk_size": 8,
    "shared_intermediate_size": 40, "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "logits_scaling": 3.0,
    "attention_multiplier": 0.3,
}  # fmt: skip
GRANITE_DENSE = {
    **GRANITE, "num_local_experts": 0, "position_embedding_type": "rope", "tie_word_embeddings": True,
    "attention_bias": True, "mamba_proj_bias": True, "mamba_conv_bias": False, "mamba_d_conv": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "time_step_limit": [0.01, 0.6],
}  # fmt: skip
BERT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT, "local_attention": 6, "global_attn_every_n_layers": 3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
BERT_ODD = {
    **BERT, "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True, "decoder_bias": False,
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": False,
}  # fmt: skip
GPT2_ODD = {"n_inner": 48, "tie_word_embeddings": False, "activation_function": "gelu", "scale_attn_weights": False}

CASES = {
    "llama": Case("Llama", LLAMA),
    "llama, tied, wide heads": Case("Llama", {**LLAMA, "tie_word_embeddings": True, "head_dim": 16}),
    "llama, biases": Case("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, llama3 positions": Case("Llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "llama, yarn": Case("Llama", {**LLAMA, "rope_parameters": {**YARN, "truncate": False}}),
    "llama, linear": Case(
        "Llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}}
    ),
    "mistral": Case("Mistral", {**LLAMA, "sliding_window": 5, "head_dim": 16}),
    "mistral, no window, yarn": Case(
        "Mistral", {**LLAMA, "sliding_window": None, "rope_parameters": YARN}, becomes="LlamaForCausalLM"
    ),
    "qwen3": Case("Qwen3", {**LLAMA, "head_dim": 16, "attention_bias": True}),
    "qwen3, windows, yarn": Case(
        "Qwen3", {**LLAMA, **SLIDING, "head_dim": 16, "layer_types": TYPES, "rope_parameters": YARN}
    ),
    "mixtral": Case("Mixtral", MIXTRAL),
    "mixtral, window": Case("Mixtral", {**MIXTRAL, "sliding_window": 5, "tie_word_embeddings": True}),
    "qwen3-moe": Case("Qwen3Moe", QWEN3_MOE),
    "qwen3-moe, dense first, window": Case(
        "Qwen3Moe", {**QWEN3_MOE, **SLIDING, "mlp_only_layers": [0], "norm_topk_prob": False, "attention_bias": True}
    ),
    "deepseek-v3": Case("DeepseekV3", DEEPSEEK),
    "kimi-k2": Case("DeepseekV3", KIMI),
    "granite-hybrid": Case("GraniteMoeHybrid", {**GRANITE, "num_local_experts": 5}, alone=PACKED),
    "granite-hybrid, dense, turned": Case("GraniteMoeHybrid", GRANITE_DENSE, alone=PACKED | {"left-padded"}),
    "modernbert": Case("ModernBert", BERT, head="ForMaskedLM", alone=PACKED),
    "modernbert, odd": Case("ModernBert", BERT_ODD, head="ForMaskedLM", alone=PACKED),
    "gpt2": Case("GPT2", GPT2, head="LMHeadModel"),
    "gpt2, untied, unscaled": Case("GPT2", {**GPT2, **GPT2_ODD}, head="LMHeadModel"),
}  # fmt: skip
"""A new family is tested by a row here."""
GENERATED = [
    "llama", "llama, yarn", "mistral", "qwen3, windows, yarn", "mixtral, window", "qwen3-moe, dense first, window",
    "deepseek-v3", "kimi-k2", "granite-hybrid", "granite-hybrid, dense, turned", "gpt2",
]  # fmt: skip
"""The causal ones, each family at least once, windows where it has them."""
LONG = ["llama", "mistral", "mixtral, window", "deepseek-v3", "granite-hybrid", "modernbert"]
"""One of each way to look at earlier positions that knows no longest row."""
EXACT = ["gpt2", "gpt2, untied, unscaled"]
"""Whose classes compute in float64 where they are told to; norms of Llama's line and ModernBERT's rotation do not."""


@dataclass(frozen=True)
class Reference:
    """A model of theirs, and the folder it was saved in."""

    case: Case
    model: Any
    folder: Path


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def reference(request: pytest.FixtureRequest, transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    case = request.param
    config = getattr(transformers, f"{case.kind}Config")(**case.keys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, case.architecture)(config).eval()
        scramble_all(model)
        folder = tmp_path_factory.mktemp("hf") / "model"
        model.save_pretrained(folder)
    return Reference(case, model, folder)


def scramble_all(model: torch.nn.Module) -> None:
    """Parameters, and the one buffer that is trained by other means than gradients."""
    scramble(model)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))


def tokens(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(4, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def our_logits(loaded: Published, ids: Tensor, layout: SequenceLayout) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = loaded.model.eval()(ids, layout, readout=LastLogits(ids.shape[1]))
        return logits


def their_logits(model: Any, ids: Tensor, **keys: Any) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(ids, **keys).logits
        return logits


def padded(left: bool) -> tuple[SequenceLayout, Tensor]:
    """Rows of which 0, 3 and 9 places are padding; with the mask of the places that are not."""
    index, pads = torch.arange(LENGTH).expand(3, LENGTH), torch.tensor([[0], [3], [9]])
    real = index >= pads if left else index < LENGTH - pads
    positions = (index - pads).clamp(min=0) if left else index.where(real, 0)
    return SequenceLayout(positions, torch.where(real, 0, PADDING)), real


def packed() -> SequenceLayout:
    return SequenceLayout.packed(torch.tensor([[0] * 7 + [1] * 13 + [2] * 4, [0] * 24, [0] + [1] * 20 + [2] * 3]))


def compared(loaded: Published, model: Any, layout: str, case: Case) -> tuple[Tensor, Tensor]:
    """Both models' logits of the same batch, at the places that hold tokens."""
    ids = tokens()
    if layout == "plain":
        return our_logits(loaded, ids, SequenceLayout.rows(3, LENGTH)), their_logits(model, ids)
    if layout == "packed":
        rows, real, known = packed(), torch.ones_like(ids, dtype=torch.bool), {"use_cache": False}
    else:
        (rows, real), known = padded(layout == "left-padded"), {}
        known["attention_mask"] = real.long()
    ours = our_logits(loaded, ids, rows)[real]
    if layout in case.alone:
        return ours, one_by_one(model, ids, rows)
    # The causal classes take restarted positions for documents only without a mask and without a cache.
    return ours, their_logits(model, ids, position_ids=rows.positions_BT, **known)[real]


def one_by_one(model: Any, ids: Tensor, rows: SequenceLayout) -> Tensor:
    """Their logits of every document, row by row."""
    found = []
    assert rows.documents_BT is not None
    for row, documents in zip(ids, rows.documents_BT, strict=True):
        spans = row.split(documents.unique_consecutive(return_counts=True)[1].tolist())
        kept = [span for span, number in zip(spans, documents.unique_consecutive(), strict=True) if number != PADDING]
        found += [their_logits(model, document[None])[0] for document in kept]
    return torch.cat(found)


LAYOUTS = ["plain", "left-padded", "right-padded", "packed"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_the_reference_gives_its_logits(reference: Reference, layout: str) -> None:
    ours, theirs = compared(read_folder(reference.folder), reference.model, layout, reference.case)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.std() > 0.1, "logits that say something"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reference", [CASES[name] for name in EXACT], ids=EXACT, indirect=True)
def test_in_double_precision_nothing_is_left_of_the_difference(reference: Reference, layout: str) -> None:
    read, double = read_folder(reference.folder, dtype=torch.float64), type(reference.model)(reference.model.config)
    double.load_state_dict(reference.model.state_dict())
    ours, theirs = compared(read, double.double().eval(), layout, reference.case)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("reference", [CASES[name] for name in LONG], ids=LONG, indirect=True)
def test_rows_long_enough_to_be_taken_apart_give_its_logits(reference: Reference) -> None:
    """Beyond 512 positions a CPU computes packed documents, windows and chunks by other ways; a document each here."""
    ids, rows = tokens(2, 540), SequenceLayout.packed(torch.tensor([[0] * 300 + [1] * 233 + [2] * 7, [0] * 540]))
    ours = our_logits(read_folder(reference.folder), ids, rows).flatten(0, 1)
    torch.testing.assert_close(ours, one_by_one(reference.model, ids, rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reference", [CASES[name] for name in GENERATED], ids=GENERATED, indirect=True)
def test_greedy_tokens_through_our_cache_are_those_through_theirs(transformers: Any, reference: Reference) -> None:
    ids = tokens(1)
    how = transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None)
    theirs = reference.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
    assert continued(read_folder(reference.folder), ids) == theirs[0, LENGTH:].tolist()


def continued(loaded: Published, ids: Tensor) -> list[int]:
    """Greedy tokens after ``ids``, one at a time through a cache."""
    caches, new, found = loaded.model.make_caches(LENGTH + NEW), ids, list[int]()
    with torch.inference_mode():
        for start in [0, *range(LENGTH, LENGTH + NEW - 1)]:
            layout = SequenceLayout.rows(1, new.shape[1], start=start)
            logits = loaded.model.eval()(new, layout, caches, readout=LastLogits())
            new = logits[:, -1].argmax(-1, keepdim=True)
            found.append(int(new))
    return found


def test_what_we_write_the_reference_loads_as_the_same_model(
    transformers: Any, reference: Reference, tmp_path: Path
) -> None:
    read = read_folder(reference.folder)
    write_folder(read, tmp_path / "out", PushConfig(dtype="float32"))
    theirs = getattr(transformers, reference.case.written).from_pretrained(tmp_path / "out").eval()
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["architectures"] == [reference.case.written]
    for layout in ("left-padded", "packed"):
        ours, other = compared(read, theirs, layout, reference.case)
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


def test_reading_and_writing_undo_each_other_bit_for_bit(reference: Reference, tmp_path: Path) -> None:
    read = read_folder(reference.folder)
    family = family_in(json.loads((reference.folder / "config.json").read_text()), reference.folder)
    plan = plan_of(family, read.config, read.model.state_dict())
    disk = load_file(reference.folder / "model.safetensors")
    again = to_disk(plan, to_ours(plan, dict(disk)))
    assert again.keys() == disk.keys()
    assert all(torch.equal(again[name], disk[name]) for name in disk)
    own = read.model.state_dict()
    back = to_ours(plan, to_disk(plan, own))
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)
    write_folder(read, tmp_path / "out", PushConfig(dtype="float32"))
    written = read_folder(tmp_path / "out")
    assert written.config == read.config


def test_missing_and_foreign_weights_are_named_as_on_disk_in_one_complaint(
    reference: Reference, tmp_path: Path
) -> None:
    folder = shutil.copytree(reference.folder, tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    lost = max(tensors, key=len)
    del tensors[lost]
    bent = next(name for name, tensor in tensors.items() if tensor.ndim == 2 and "embed" not in name)
    save_file(
        {**tensors, bent: tensors[bent][:-1], "model.layers.0.router.zeta": torch.ones(2)}, folder / "model.safetensors"
    )
    with pytest.raises(CirillaError) as caught:
        read_folder(folder)
    text = str(caught.value)
    assert f"`{lost}` is missing" in text
    assert "`model.layers.0.router.zeta` is not a weight" in text or "zeta" in text
    assert f"`{bent}` has shape" in text


def test_every_key_of_the_references_config_is_read_or_known_to_do_nothing(reference: Reference) -> None:
    values = json.loads((reference.folder / "config.json").read_text())
    family = family_in(values, reference.folder)
    keys = Keys(values, family.defaults)
    family.read(keys)
    assert not values.keys() - keys.asked - family.idle


def test_masks_on_disk_and_names_without_a_prefix_are_read(transformers: Any, tmp_path: Path) -> None:
    """As the first GPT-2 was published: saved without a head, its causal masks beside the weights."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).eval()
    scramble_all(model)
    model.transformer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "wte.weight" in tensors
    masks = {f"h.{i}.attn.{name}": torch.ones(1, 1, 8, 8) for i in range(3) for name in ("bias", "masked_bias")}
    save_file({**tensors, **masks}, tmp_path / "model.safetensors")
    ids = tokens()
    ours = our_logits(read_folder(tmp_path), ids, SequenceLayout.rows(3, LENGTH))
    torch.testing.assert_close(ours, their_logits(model, ids), rtol=0, atol=1e-5)


def test_layers_that_predict_further_tokens_are_passed_over(transformers: Any, tmp_path: Path) -> None:
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**DEEPSEEK)).eval()
    scramble_all(model)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    further = {name.replace("layers.2.", "layers.3."): t.clone() for name, t in tensors.items() if "layers.2." in name}
    save_file({**tensors, **further, "model.layers.3.eh_proj.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    ids = tokens()
    ours = our_logits(read_folder(tmp_path), ids, SequenceLayout.rows(3, LENGTH))
    torch.testing.assert_close(ours, their_logits(model, ids), rtol=0, atol=1e-5)


def test_steps_that_predict_further_tokens_stand_behind_the_last_layer(transformers: Any, tmp_path: Path) -> None:
    """Named as transformers' own module for them names its parts."""
    values = transformers.DeepseekV3Config(**{**DEEPSEEK, "num_nextn_predict_layers": 2}).to_dict()
    config = from_hf(values, Path("config.json"))
    source: Published = Found(fresh(config, seed=0).eval(), config, None, Path("nowhere"))
    scramble_all(source.model)
    write_folder(source, tmp_path / "out", PushConfig(dtype="float32"))
    assert not failures(check(tmp_path / "out", source))
    disk = load_file(tmp_path / "out" / "model.safetensors")
    own = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}
    for last, further in ((2, 3), (2, 4)):
        layers = ({n.split(f"layers.{k}.")[1] for n in disk if f"layers.{k}." in n} for k in (last, further))
        assert next(layers) | own == next(layers)


def test_a_router_keeps_its_balance_where_weights_are_rounded(transformers: Any, tmp_path: Path) -> None:
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**DEEPSEEK)).eval()
    scramble_all(model)
    model.save_pretrained(tmp_path / "hf")
    write_folder(read_folder(tmp_path / "hf"), tmp_path / "out", PushConfig(dtype="bfloat16"))
    theirs = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path / "out")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(theirs.state_dict()[name], model.state_dict()[name])
    planned = plan_folder(read_folder(tmp_path / "hf"), tmp_path / "plan", PushConfig(dtype="bfloat16"))
    assert {f.name: f.bytes for f in planned} == {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}


def test_large_weights_are_cut_into_files_that_both_readers_put_together(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    source: Published = Loaded(make_model(config), config, None, Path("nowhere"))
    monkeypatch.setattr(write, "SHARD_BYTES", 30_000)
    planned = plan_folder(source, tmp_path / "plan", PushConfig(dtype="float32"))
    write_folder(source, tmp_path / "out", PushConfig(dtype="float32"))
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert {f.name: f.bytes for f in planned} == files
    assert "model-00001-of-00007.safetensors" in files
    assert "model.safetensors" not in files
    assert max(size for name, size in files.items() if name.startswith("model-")) < 42_000
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    own = source.model.state_dict()
    assert all(torch.equal(theirs.state_dict()[name], own[name]) for name in own)
    read = read_folder(tmp_path / "out").model.state_dict()
    assert all(torch.equal(read[name], own[name]) for name in own)


@pytest.mark.parametrize("case", ["qwen3-moe", "granite-hybrid, dense, turned", "modernbert"])
def test_what_push_itself_checks_holds(transformers: Any, tmp_path: Path, case: str) -> None:
    config = from_hf(getattr(transformers, f"{CASES[case].kind}Config")(**CASES[case].keys).to_dict(), Path("c.json"))
    model = fresh(config, seed=0).eval()
    scramble_all(model)
    source: Published = Found(model, config, None, Path("nowhere"))
    files = write_folder(source, tmp_path / "out", PushConfig(dtype="bfloat16"))
    checks = {c.name: c.outcome for c in check(tmp_path / "out", source)}
    assert not failures(check(tmp_path / "out", source)), checks
    assert checks["transformers logits"] == "passed"
    assert "README.md" in {file.name for file in files}


def test_a_rotation_without_a_public_name_is_published_as_the_larger_base_it_is(tmp_path: Path) -> None:
    config = make_config(windows="A")
    attention = AttentionConfig(n_heads=4, head_dim=16, rope=NTKRopeConfig(theta=5000.0, factor=4.0))
    config = config.model_copy(update={"mixers": {"A": attention}})
    source: Published = Loaded(make_model(config), config, None, Path("nowhere"))
    write_folder(source, tmp_path / "out", PushConfig(dtype="float32"))
    assert not failures(check(tmp_path / "out", source))


@pytest.mark.parametrize(
    ("case", "keys", "said"),
    [
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ("mistral", {"layer_types": TYPES}, ["`layer_types`"]),
        ("qwen3, windows, yarn", {"sliding_window": 1}, ["`sliding_window` is 1: expected 2 or more"]),
        ("mixtral", {"num_local_experts": 0, "hidden_act": "gelu"}, ["`num_local_experts` is 0", "`hidden_act`"]),
        ("qwen3-moe", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, ["decoder_sparse_step", "mlp_only_layers"]),
        ("deepseek-v3", {"rope_interleave": False, "scoring_func": "softmax"}, ["rope_interleave", "scoring_func"]),
        ("deepseek-v3", {"num_key_value_heads": 2, "moe_layer_freq": 2}, ["num_key_value_heads", "moe_layer_freq"]),
        ("granite-hybrid", {"layer_types": ["mamba", "x", "mamba"], "mamba_d_head": 9}, ["layer_types", "mamba_"]),
        ("gpt2", {"activation_function": "relu", "add_cross_attention": True}, ["`activation_function`", "cross"]),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx"]),
        ("modernbert", {"classifier_activation": "relu", "hidden_activation": "silu"}, ["classifier_", "hidden_"]),
        ("modernbert", {"layer_types": ["full_attention"]}, ["`layer_types`"]),
    ],
)  # fmt: skip
def test_keys_that_mean_another_model_are_named_together(
    transformers: Any, case: str, keys: dict[str, Any], said: list[str]
) -> None:
    values = getattr(transformers, f"{CASES[case].kind}Config")(**CASES[case].keys).to_dict()
    with pytest.raises(CirillaError) as caught:
        from_hf({**values, **keys}, Path("config.json"))
    assert all(text in str(caught.value) for text in said), str(caught.value)


UNPUBLISHED = {
    "softcap": {"mixers": {"A": {"kind": "attention", "n_heads": 4, "softcap": 30.0}}},
    "out_bias": {"mixers": {"A": {"kind": "attention", "n_heads": 4, "bias": True}}},
    "fraction": {"mixers": {"A": {"kind": "attention", "n_heads": 4, "rope": {"kind": "plain", "fraction": 0.5}}}},
    "`sliding_window` would be 1": {"mixers": {"A": {"kind": "attention", "n_heads": 4, "window": 1}}},
    "norm_placement": {"norm_placement": "sandwich"},
    "positions": {"positions": {"kind": "learned"}},
    "mtp": {"mtp": {"kind": "chained"}},
    "`pattern` has no attention": {"mixers": {"A": {"kind": "mamba2", "n_heads": 4}}},
    "`mlp` has the kind relu2": {"mlp": {"kind": "relu2", "d_ff": 48}},
    "`norm` has the kind dyt": {"norm": {"kind": "dyt"}},
    "router.kind": {"mlp": {"kind": "moe", "n_experts": 4, "top_k": 2, "d_ff": 16, "router": {"kind": "noisy"}}},
    "`mixers` has the kind mla": {
        "mixers": {"A": {"kind": "mla", "n_heads": 4, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
                         "v_head_dim": 8}},
    },
}  # fmt: skip


PLAIN: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "context_length": 64, "mlp": {"kind": "swiglu", "d_ff": 48},
    "mixers": {"A": {"kind": "attention", "n_heads": 4}},
}  # fmt: skip


@pytest.mark.parametrize(("said", "change"), UNPUBLISHED.items(), ids=UNPUBLISHED)
def test_what_a_public_config_cannot_say_keeps_a_model_native(said: str, change: dict[str, Any]) -> None:
    assert family_of(DecoderConfig.model_validate(PLAIN)).architecture == "LlamaForCausalLM"
    with pytest.raises(CirillaError) as caught:
        family_of(DecoderConfig.model_validate({**PLAIN, **change}))
    assert said in str(caught.value)
    assert "cirilla only" in str(caught.value.hint)


@pytest.mark.parametrize(("window", "same"), [(1, False), (2, True)])
def test_a_window_of_one_is_refused_because_their_cache_forgets_nothing_then(
    transformers: Any, window: int, same: bool
) -> None:
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**{**LLAMA, "sliding_window": window})).eval()
    scramble(model)
    ids = tokens(1)
    cached, plain = (
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=transformers.GenerationConfig(
            max_new_tokens=16, do_sample=False, use_cache=use_cache, pad_token_id=0, eos_token_id=None,
        )).tolist()
        for use_cache in (True, False)
    )  # fmt: skip
    assert (cached == plain) is same


EXPERTS = {"kind": "moe", "n_experts": 4, "top_k": 2, "d_ff": 16, "router": {"kind": "softmax"}}
BORN_HERE = {
    "scales": ({"embedding_scale": 2.0, "residual_scale": 0.5, "logit_scale": 0.25}, "GraniteMoeHybridForCausalLM"),
    "one scale": (
        {"mixers": {"A": {"kind": "attention", "n_heads": 4, "head_dim": 12, "scale": 0.1, "rope": None}}},
        "GraniteMoeHybridForCausalLM",
    ),
    "shared expert": ({"mlp": {**EXPERTS, "shared_d_ff": 24}}, "GraniteMoeHybridForCausalLM"),
    "experts": ({"mlp": EXPERTS}, "MixtralForCausalLM"),
    "experts, qk_norm": (
        {"mlp": EXPERTS, "mixers": {"A": {"kind": "attention", "n_heads": 4, "qk_norm": True}}},
        "Qwen3MoeForCausalLM",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "architecture"), BORN_HERE.values(), ids=BORN_HERE)
def test_a_model_born_here_becomes_the_architecture_that_computes_the_same(
    transformers: Any, tmp_path: Path, change: dict[str, Any], architecture: str
) -> None:
    config = DecoderConfig.model_validate({**PLAIN, **change})
    assert family_of(config).architecture == architecture
    source: Published = Loaded(make_model(config), config, None, Path("nowhere"))
    write_folder(source, tmp_path / "out", PushConfig(dtype="float32"))
    theirs = getattr(transformers, architecture).from_pretrained(tmp_path / "out").eval()
    ids = tokens()
    ours = our_logits(source, ids, SequenceLayout.rows(3, LENGTH))
    torch.testing.assert_close(ours, their_logits(theirs, ids), rtol=0, atol=1e-5)
    own, read = source.model.state_dict(), read_folder(tmp_path / "out").model.state_dict()
    assert all(torch.equal(own[name], read[name]) for name in own)


STEPS = {
    "transpose": Transpose(), "join": Join(3), "cut": Cut(2, 1), "unstack": Unstack(6),
    "interleave": Interleave(heads=2, turned=4),
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_every_step_is_undone_bit_for_bit(step: Step, data: st.DataObject) -> None:
    """Of six tensors whose axes are multiples of what the steps cut them by."""
    shape = [data.draw(st.sampled_from(sizes)) for sizes in ([12, 24], [2, 4, 6], [1, 5])]
    given_ = [torch.randn(shape) for _ in range(6)]
    there = step.forward(list(given_))
    back = step.backward(list(there))
    assert all(torch.equal(one, other) for one, other in zip(given_, back, strict=True))
    again = step.forward(back)
    assert all(torch.equal(one, other) for one, other in zip(there, again, strict=True))


def test_every_family_has_a_case() -> None:
    assert {CASES[name].architecture for name in GENERATED} >= {
        f.architecture for f in FAMILIES if f.whole is DecoderConfig
    }
    assert {family.architecture for family in FAMILIES} == {case.architecture for case in CASES.values()}
