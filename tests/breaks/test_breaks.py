"""Every deliberate break still applies and names a test that exists; `python -m tests.breaks` runs them."""

from pathlib import Path

import pytest

from . import harness
from .harness import ROOT, Break, all_breaks, apply, is_a_test, try_break

BREAKS = all_breaks()


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: b.name)
def test_the_patch_applies_and_its_test_exists(broken: Break) -> None:
    assert apply(broken.path, ROOT, check=True) == ""
    assert is_a_test(broken.test), f"{broken.path.name} names {broken.test}, which does not exist"


PATCH = """\
# test: tests/test_made_up.py::test_one_and_one
--- a/cirilla_cli/__init__.py
+++ b/cirilla_cli/__init__.py
@@ -1,1 +1,1 @@
-{old}
+{new}
"""


@pytest.mark.parametrize(
    ("new", "test", "said"),
    [
        ("ONE = 3", "assert cirilla_cli.ONE == 1", "noticed"),
        ("ONE = 3", "assert cirilla_cli.ONE", "NOT NOTICED"),
        ("ONE = (", "assert cirilla_cli.ONE == 1", "could not be run"),
        ("ONE = 3", "__import__('pytest').skip('it wants what is absent')", "not tried"),
    ],
)
def test_only_a_failing_test_counts_as_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str, test: str, said: str
) -> None:
    """On a project of two files: a break that is caught, one that is not, and one after which nothing runs."""
    project = tmp_path / "project"
    (project / "cirilla_cli").mkdir(parents=True)
    (project / "cirilla_cli" / "__init__.py").write_text("ONE = 1\n")
    (project / "tests").mkdir()
    (project / "tests" / "test_made_up.py").write_text(f"import cirilla_cli\n\n\ndef test_one_and_one():\n    {test}\n")
    patch = tmp_path / "made-up.patch"
    patch.write_text(PATCH.format(old="ONE = 1", new=new))
    monkeypatch.setattr(harness, "ROOT", project)
    (tmp_path / "work").mkdir()
    outcome = try_break(Break.read(patch), tmp_path / "work")
    assert outcome.said.startswith(said)
    assert outcome.noticed == (said == "noticed")
    assert (project / "cirilla_cli" / "__init__.py").read_text() == "ONE = 1\n"


def test_a_patch_that_no_longer_applies_is_said(tmp_path: Path) -> None:
    patch = tmp_path / "stale.patch"
    patch.write_text(PATCH.format(old="this line was never there", new="x"))
    assert "cirilla_cli/__init__.py" in apply(patch, ROOT, check=True)


def test_a_patch_without_a_test_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_text("--- a/x\n")
    with pytest.raises(ValueError, match="no line `# test:"):
        Break.read(tmp_path / "x.patch")
