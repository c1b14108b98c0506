"""The image cannot be built in a test; its pip lines can be run, in order, in a clean environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [(m[1], m[2].strip()) for m in re.finditer(r"^([A-Z]+) (.+)$", text, re.MULTILINE)]


def test_the_image_runs_as_a_user_without_rights_on_what_it_runs() -> None:
    names = [name for name, _ in instructions()]
    assert ("USER", "cirilla") in instructions()
    assert names.index("ENTRYPOINT") > names.index("USER")


def test_torch_is_for_the_cpu_unless_a_build_argument_says_otherwise() -> None:
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in instructions()
    torch_line = next(i for i, (_, body) in enumerate(instructions()) if "$TORCH_INDEX" in body)
    project = next(i for i, step in enumerate(instructions()) if step == ("COPY", "cirilla_cli cirilla_cli"))
    assert torch_line < project, "a changed source file must not install torch again"


@pytest.mark.slow
def test_its_pip_lines_install_a_program_that_answers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    source = tmp_path / "src"
    source.mkdir()
    path = f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}"
    for name, body in instructions():
        if name == "COPY" and not body.startswith("--from"):
            *names, target = body.split()
            for each in names:
                _copy(ROOT / each, source / each if target == "./" else source / target)
        elif name == "RUN" and "pip " in body:
            # Without byte code (pip wants a false value where an option's name begins with "no"), and with what pip has
            # downloaded and built before: both cost time alone.
            body = body.replace("--no-cache-dir ", "")
            environment = {**os.environ, "PATH": path, "TORCH_INDEX": "", "PIP_NO_COMPILE": "0"}
            done = subprocess.run(["sh", "-c", body], cwd=source, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{body}\n{done.stderr}"
    listed = subprocess.run(
        [tmp_path / "venv" / "bin" / "cirilla", "recipe", "list", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"quickstart"' in listed.stdout


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
