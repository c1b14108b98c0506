"""Every family against the reference's own class: logits, greedy tokens, files, both ways."""

import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.errors import CirillaError
from cirilla_cli.hub.check import check
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.families import FAMILIES, family_in, plan_of, to_disk, to_ours
from cirilla_cli.hub.families.keys import Keys
from cirilla_cli.hub.read import read_folder
from cirilla_cli.hub.write import write_folder
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.readout import LastLogits

from .conftest import VOCAB, scramble

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
    exact: bool = False
    """Whether the reference computes in float64 where it is told to: norms of Llama's line go by float32."""

    @property
    def architecture(self) -> str:
        return f"{self.kind}{self.head}"

    @property
    def written(self) -> str:
        return self.becomes or self.architecture


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
    "gpt2": Case("GPT2", GPT2, head="LMHeadModel", exact=True),
    "gpt2, untied, unscaled": Case("GPT2", {**GPT2, **GPT2_ODD}, head="LMHeadModel", exact=True),
}  # fmt: skip
"""A new family is tested by a row here."""


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


def our_logits(loaded: Loaded, ids: Tensor, layout: SequenceLayout) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = loaded.model.eval()(ids, layout, readout=LastLogits(ids.shape[1]))
        return logits


def their_logits(model: Any, ids: Tensor, **keys: Any) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(ids, use_cache=False, **keys).logits
        return logits


def padded(left: bool) -> tuple[SequenceLayout, Tensor]:
    """Rows of which 0, 3 and 9 places are padding; with the mask of the places that are not."""
    index, pads = torch.arange(LENGTH).expand(3, LENGTH), torch.tensor([[0], [3], [9]])
    real = index >= pads if left else index < LENGTH - pads
    positions = (index - pads).clamp(min=0) if left else index.where(real, 0)
    return SequenceLayout(positions, torch.where(real, 0, PADDING)), real


def packed() -> SequenceLayout:
    return SequenceLayout.packed(torch.tensor([[0] * 7 + [1] * 13 + [2] * 4, [0] * 24, [0] + [1] * 20 + [2] * 3]))


def compared(loaded: Loaded, model: Any, layout: str) -> tuple[Tensor, Tensor]:
    """Both models' logits of the same batch, at the places that hold tokens."""
    ids = tokens()
    if layout == "plain":
        return our_logits(loaded, ids, SequenceLayout.rows(3, LENGTH)), their_logits(model, ids)
    if layout == "packed":
        # The reference takes restarted positions for documents only without a mask and without a cache.
        rows = packed()
        return our_logits(loaded, ids, rows), their_logits(model, ids, position_ids=rows.positions_BT)
    rows, real = padded(layout == "left-padded")
    theirs = their_logits(model, ids, attention_mask=real.long(), position_ids=rows.positions_BT)
    return our_logits(loaded, ids, rows)[real], theirs[real]


LAYOUTS = ["plain", "left-padded", "right-padded", "packed"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_the_reference_gives_its_logits(reference: Reference, layout: str) -> None:
    ours, theirs = compared(read_folder(reference.folder), reference.model, layout)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.std() > 0.1, "logits that say something"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_double_precision_nothing_is_left_of_the_difference(reference: Reference, layout: str) -> None:
    if not reference.case.exact:
        pytest.skip("the reference's norms go by float32")
    read, double = read_folder(reference.folder, dtype=torch.float64), type(reference.model)(reference.model.config)
    double.load_state_dict(reference.model.state_dict())
    ours, theirs = compared(read, double.double().eval(), layout)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_greedy_tokens_through_our_cache_are_those_through_theirs(transformers: Any, reference: Reference) -> None:
    ids = tokens(1)
    how = transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None)
    theirs = reference.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
    assert continued(read_folder(reference.folder), ids) == theirs[0, LENGTH:].tolist()


def continued(loaded: Loaded, ids: Tensor) -> list[int]:
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
    for layout in LAYOUTS:
        ours, other = compared(read, theirs, layout)
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)
    assert {c.outcome for c in check(tmp_path / "out", read)} <= {"passed", "skipped"}


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


def test_every_family_has_a_case() -> None:
    assert {family.architecture for family in FAMILIES} == {case.architecture for case in CASES.values()}
