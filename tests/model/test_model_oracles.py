"""Every kind of every piece has a test against something that is not ours, and a break that shows that test fail.

A file of tests says which test that is by a line `# oracle: PLACE KIND ...: TEST`.
"""

import re
import typing
from pathlib import Path
from typing import Any, get_args

import pytest

from cirilla_cli.model.config import DecoderConfig, LearnedPositionsConfig, MTPSection, Pooling, ShapeSection
from cirilla_cli.model.mixers.config import MixerSection
from cirilla_cli.model.routing import BalanceSection, RouterSection
from cirilla_cli.model.sections import MLPSection, NormSection, RopeSection

from ..breaks.harness import ROOT, all_breaks, is_a_test
from .test_model_contract import members

SAID = re.compile(r"^# oracle: (\S+) (.+): (test_\w+)$", re.M)


def oracles() -> list[tuple[str, str, str]]:
    """Place, kind, and the test as breaks name it."""
    found = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for place, kinds, test in SAID.findall(path.read_text(encoding="utf-8")):
            found += [(place, kind, f"{path.relative_to(ROOT).as_posix()}::{test}") for kind in kinds.split()]
    return found


def kinds_of(union: Any) -> set[str]:
    return {str(member.model_fields["kind"].default) for member in members(union)}


PLACES = {
    "mixer": kinds_of(MixerSection), "feed-forward": kinds_of(MLPSection), "norm": kinds_of(NormSection),
    "placement": set(get_args(typing.get_type_hints(DecoderConfig)["norm_placement"])), "rope": kinds_of(RopeSection),
    "positions": kinds_of(LearnedPositionsConfig), "router": kinds_of(RouterSection),
    "balance": kinds_of(BalanceSection), "steps-ahead": kinds_of(MTPSection), "pooling": set(get_args(Pooling)),
    "model": kinds_of(ShapeSection),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_every_kind_has_its_oracle(place: str) -> None:
    assert {kind for at, kind, _ in oracles() if at == place} == PLACES[place]


@pytest.mark.parametrize("test", sorted({test for _, _, test in oracles()}))
def test_every_oracle_is_shown_to_fail(test: str) -> None:
    assert is_a_test(test)
    assert any(broken.test.partition("[")[0] == test for broken in all_breaks()), f"no break names {test}"


def test_no_oracle_is_of_what_there_is_not() -> None:
    assert {place for place, _, _ in oracles()} == set(PLACES)
