"""What a sequence mixer owes, for every kind in the union of the decoder's section: new ones are tested by existing."""

import math
import typing
from collections.abc import Iterator
from contextlib import suppress
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cirilla_cli.config import Section
from cirilla_cli.model import count
from cirilla_cli.model.cache import PastCache
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import empty, fresh
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.mixers.config import DilatedAttentionConfig
from cirilla_cli.model.parts import Mixer
from cirilla_cli.model.readout import LastLogits, TokenLoss
from cirilla_cli.model.sections import RMSNormConfig

from .conftest import VOCAB, config_of, randomise, same_when_compiled

T, EXACT = 14, 1e-10


def members(annotation: Any) -> list[Any]:
    """The types in a union, whatever it is wrapped in."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for part in get_args(annotation) for m in members(part)]
    return [annotation]


def kinds() -> list[type[Section]]:
    """Every section that can stand in `mixers`."""
    mixers = typing.get_type_hints(DecoderConfig, include_extras=True)["mixers"]
    assert DecoderConfig.model_fields["mixers"].is_required()
    return members(get_args(mixers)[1])


def least(section: type[Section]) -> dict[str, Any]:
    """Values for the fields of a section that have no default."""
    fields = {n: f for n, f in section.model_fields.items() if n != "kind" and f.is_required()}
    return {n: next(others(f.annotation, 2.0)) for n, f in fields.items()}


def others(annotation: Any, default: Any) -> Iterator[Any]:
    """Values of a field that are not its default: every other section, the other truth, a small even number, more."""
    for plain in members(annotation):
        if plain is NoneType:
            if default is not None:
                yield None
        elif isinstance(plain, type) and issubclass(plain, Section):
            if plain is not type(default):
                yield plain.model_validate(least(plain))
        elif plain is bool:
            yield not default
        elif plain is int:
            yield 2
        elif plain is float:
            yield 0.75 if default in (None, 1.0) else 1.5 * default


def variants() -> dict[str, Section]:
    """Each kind as plain as it can be, and once more for each field that is set to something else."""
    found: dict[str, Section] = {}
    for kind in kinds():
        name, needed = str(kind.model_fields["kind"].default), least(kind)
        found[name] = kind.model_validate(needed)
        for field, info in kind.model_fields.items():
            for value in () if field == "kind" or info.is_required() else others(info.annotation, info.default):
                shown = value.kind if isinstance(value, Section) else value
                with suppress(ValidationError):
                    found[f"{name}, {field}={shown}"] = kind.model_validate({**needed, field: value})
    return found


def crossed() -> dict[str, Section]:
    """Forms whose borders a short row crosses, where a change of one field alone gives none."""
    short = {"segments": (4, 8), "dilations": (1, 2)}
    return {"dilated, segments=4 and 8": DilatedAttentionConfig.model_validate({"n_heads": 2, **short})}


VARIANTS = {**variants(), **crossed()}


CAUSAL = {name: variant for name, variant in VARIANTS.items() if "causal=False" not in name}
"""Those that can decode; the others stand in encoders."""


def built(section: Section) -> Decoder:
    """Two layers of one kind of mixer, in float64, every weight random."""
    model = fresh(config_of("X", {"X": section}), seed=0).double().eval()
    randomise(model)
    return model


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def either(request: pytest.FixtureRequest) -> Decoder:
    """A model of each variant, those that see later positions included."""
    return built(request.param)


@pytest.fixture(params=CAUSAL.values(), ids=CAUSAL)
def model(request: pytest.FixtureRequest) -> Decoder:
    """A model of each variant that sees earlier positions only."""
    return built(request.param)


def tokens(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, T), generator=torch.Generator().manual_seed(seed))


def logits(model: Decoder, rows: Tensor, layout: SequenceLayout | None = None, **keys: Any) -> Tensor:
    layout = layout or SequenceLayout.rows(*rows.shape)
    return model(rows, layout, readout=LastLogits(rows.shape[1]), **keys)


@torch.inference_mode()
def test_what_was_decoded_can_be_taken_back(model: Decoder) -> None:
    rows, other = tokens(), tokens(seed=2)
    whole = logits(model, rows)
    for seen, wrong, back in ((5, 3, 3), (1, 4, 2), (9, 1, 1)):
        caches = model.make_caches(T + 4, rollback=4)
        logits(model, rows[:, :seen], caches=caches)
        ahead = torch.cat([rows[:, seen : seen + wrong - back], other[:, :back]], dim=1)
        logits(model, ahead, SequenceLayout.rows(2, wrong, start=seen), caches=caches)
        kept = seen + wrong - back
        for cache in caches:
            cache.trim(kept)
        rest = logits(model, rows[:, kept:], SequenceLayout.rows(2, T - kept, start=kept), caches=caches)
        torch.testing.assert_close(rest, whole[:, kept:], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_padding_before_a_row_changes_nothing(model: Decoder) -> None:
    rows = tokens(1)
    index = torch.arange(T + 3)[None] - 3
    layout = SequenceLayout(torch.where(index < 0, index + 3, index), torch.where(index < 0, PADDING, 0))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), rows], dim=1)
    caches, out = model.make_caches(T + 3), []
    for start, stop in ((0, 7), (7, 8), (8, T + 3)):
        part = SequenceLayout(layout.positions_BT[:, start:stop], layout.documents_BT[:, start:stop])
        out.append(logits(model, padded[:, start:stop], part, caches=caches))
    torch.testing.assert_close(torch.cat(out, dim=1)[:, 3:], logits(model, rows), rtol=0, atol=EXACT)


def test_the_union_is_walked() -> None:
    assert "attention" in VARIANTS
    assert any("window=2" in name for name in VARIANTS)
    assert any("qk_norm=True" in name for name in VARIANTS)


@torch.inference_mode()
def test_no_position_knows_of_later_ones(model: Decoder) -> None:
    rows, other = tokens(), tokens(seed=2)
    before = logits(model, rows)
    for cut in (1, 5, T - 1):
        changed = torch.cat([rows[:, :cut], other[:, cut:]], dim=1)
        assert torch.equal(logits(model, changed)[:, :cut], before[:, :cut])


@torch.inference_mode()
def test_documents_know_nothing_of_each_other(either: Decoder) -> None:
    layout = SequenceLayout.packed(torch.tensor([[0] * 6 + [1] * 8] * 2))
    rows = tokens()
    together = logits(either, rows, layout)
    apart = torch.cat([logits(either, rows[:, :6]), logits(either, rows[:, 6:])], dim=1)
    torch.testing.assert_close(together, apart, rtol=0, atol=EXACT)
    changed = torch.cat([tokens(seed=2)[:, :6], rows[:, 6:]], dim=1)
    assert torch.equal(logits(either, changed, layout)[:, 6:], together[:, 6:])


@torch.inference_mode()
def test_decoding_equals_one_pass(model: Decoder) -> None:
    rows = tokens()
    whole = logits(model, rows)
    for sizes in ([1] * T, [5, 9], [9, 5], [3, 1, 1, 9]):
        caches, out, start = model.make_caches(T), [], 0
        for size in sizes:
            layout = SequenceLayout.rows(2, size, start=start)
            out.append(logits(model, rows[:, start : start + size], layout, caches=caches))
            start += size
        torch.testing.assert_close(torch.cat(out, dim=1), whole, rtol=0, atol=EXACT)


BORDERS = ("window=2", "chunk_size=2", "segments")
EACH = {name: v for name, v in CAUSAL.items() if "," not in name or any(border in name for border in BORDERS)}
"""Each kind once, and once more with borders that a short row crosses."""


@pytest.mark.parametrize("section", EACH.values(), ids=EACH)
@torch.inference_mode()
def test_every_split_of_a_prompt_equals_one_pass(section: Any) -> None:
    model, rows = built(section), tokens(1)
    whole = logits(model, rows)
    for cut in range(1, T):
        caches = model.make_caches(T)
        parts = [logits(model, rows[:, :cut], SequenceLayout.rows(1, cut), caches=caches)]
        parts.append(logits(model, rows[:, cut:], SequenceLayout.rows(1, T - cut, start=cut), caches=caches))
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=EXACT)


@torch.inference_mode()
def test_rows_of_a_batch_are_independent(either: Decoder) -> None:
    rows = tokens(3)
    together = logits(either, rows)
    for row in range(3):
        torch.testing.assert_close(logits(either, rows[row : row + 1]), together[row : row + 1], rtol=0, atol=EXACT)


def test_every_parameter_receives_a_finite_gradient(either: Decoder) -> None:
    rows = tokens()
    either(rows[:, :-1], SequenceLayout.rows(2, T - 1), readout=TokenLoss(rows[:, 1:])).loss.backward()
    for name, parameter in either.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def usually_wide(section: Any) -> Any:
    """Heads of the least width that is in use: the norm of a vector of two numbers makes noise large now and then."""
    narrow = "head_dim" in type(section).model_fields and section.head_dim == 2
    return section.model_copy(update={"head_dim": 8}) if narrow else section


@pytest.mark.parametrize("section", VARIANTS.values(), ids=VARIANTS)
@torch.inference_mode()
def test_in_bfloat16_a_document_stays_near_the_exact_one(section: Any) -> None:
    """Compared with the exact one from the same rounded weights: mostly by the noise of rounding, never far off."""
    model, rows = built(usually_wide(section)), tokens()
    rough, exact = logits(model.bfloat16(), rows), logits(model.double(), rows)
    error, spread = (exact - rough).abs(), float(exact.std())
    assert float(error.median()) < 0.015 * spread
    assert float(error.square().mean().sqrt()) < 0.05 * spread
    assert float(error.max()) < 0.5 * spread


@torch.inference_mode()
def test_padding_on_either_side_of_a_row_changes_nothing(either: Decoder) -> None:
    """Three rows of one batch: whole, short of its first three places, short of its last four."""
    rows = tokens(3)
    documents = torch.zeros(3, T, dtype=torch.long)
    documents[1, :3] = documents[2, -4:] = PADDING
    together = logits(either, rows, SequenceLayout.packed(documents))
    for row, real in enumerate((slice(0, T), slice(3, T), slice(0, T - 4))):
        alone = logits(either, rows[row : row + 1, real])
        torch.testing.assert_close(together[row : row + 1, real], alone, rtol=0, atol=EXACT)


@torch.inference_mode()
def test_rows_of_a_cache_can_be_kept_and_moved(model: Decoder) -> None:
    rows, order = tokens(3), torch.tensor([2, 0, 0])
    whole, caches = logits(model, rows), model.make_caches(T)
    logits(model, rows[:, :9], SequenceLayout.rows(3, 9), caches=caches)
    for cache in caches:
        cache.reorder(order)
    rest = logits(model, rows[order, 9:], SequenceLayout.rows(3, T - 9, start=9), caches=caches)
    torch.testing.assert_close(rest, whole[order, 9:], rtol=0, atol=EXACT)


@torch.inference_mode()
def test_weights_written_and_read_give_the_same_bits(either: Decoder) -> None:
    """Whatever is not in the file must be made anew by building, or it would be what the memory last held."""
    written = safetensors.torch.save(either.state_dict())
    other = empty(either.config).double().eval()
    other.load_state_dict(safetensors.torch.load(written))
    assert torch.equal(logits(other, tokens()), logits(either, tokens()))


# One mixer alone


def alone(section: Any, width: int = 8) -> Mixer:
    """A mixer in float64, every weight random."""
    mixer = section.build(width, RMSNormConfig()).double()
    randomise(mixer)
    return mixer


def two_documents(mixer: Mixer, length: int = 6) -> SequenceLayout:
    documents = (torch.arange(length) >= length // 2).long()[None]
    return SequenceLayout.packed(documents).prepared(mixer.needs, torch.float64)


@pytest.mark.parametrize("section", VARIANTS.values(), ids=VARIANTS)
def test_gradients_are_those_of_small_steps(section: Any) -> None:
    """Of the input and of every parameter, along random directions."""
    mixer = alone(section)
    layout = two_documents(mixer)
    names, values = zip(*mixer.named_parameters(), strict=True)

    def call(x_BTD: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(mixer, dict(zip(names, parameters, strict=True)), (x_BTD, layout))

    x_BTD = torch.randn(1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(call, (x_BTD.requires_grad_(), *leaves), fast_mode=True, atol=1e-5, rtol=1e-4)


PLAINEST = {name: variant for name, variant in VARIANTS.items() if "," not in name}
"""Each kind once."""


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # asked for by the tracer itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # done by the tracer itself
@pytest.mark.parametrize("section", PLAINEST.values(), ids=PLAINEST)
def test_compiled_it_is_the_same_function(section: Any) -> None:
    mixer = alone(section)
    same_when_compiled(mixer, torch.randn(1, 6, 8, dtype=torch.float64), two_documents(mixer))


# Counts


def of_a_system(matrix: tuple[int, ...], sides: tuple[int, ...], *args: Any, **keys: Any) -> int:
    """A triangular system counts as the product of its inverse with the sides; torch's counter leaves it out."""
    return 2 * math.prod(sides) * matrix[-1]


def unwindowed(section: Any) -> Any:
    """Without a window: torch counts the scores that a mask throws away, the closed form those that are needed."""
    return section.model_copy(update={"window": None}) if "window" in type(section).model_fields else section


@pytest.mark.parametrize("section", VARIANTS.values(), ids=VARIANTS)
def test_operations_are_those_torch_counts(section: Any) -> None:
    """Every product of matrices, over whole segments and chunks; not norms, rotation, softmax and look-up."""
    model, rows = built(unwindowed(section)), torch.zeros(2, 16, dtype=torch.long)
    systems = {torch.ops.aten.linalg_solve_triangular: of_a_system}
    with FlopCounterMode(display=False, custom_mapping=systems) as counter, sdpa_kernel(SDPBackend.MATH):
        logits(model, rows)
    assert counter.get_total_flops() == rows.numel() * count.forward_flops_per_token(model.config, 16)


def test_parameters_are_those_that_exist(either: Decoder) -> None:
    assert count.parameters(either.config) == sum(p.numel() for p in either.parameters())


@torch.inference_mode()
def test_memory_of_the_caches_is_what_is_counted(model: Decoder) -> None:
    """Beside it, caches of positions hold which positions they are: eight bytes each, shared by all heads."""
    caches, rows = model.make_caches(T), tokens()
    logits(model, rows, caches=caches)
    counted = len(rows) * count.cache_bytes(model.config, T, element=8)
    places = sum(len(rows) * 8 * cache.slots for cache in caches if isinstance(cache, PastCache))
    assert sum(cache.nbytes for cache in caches) == counted + places
