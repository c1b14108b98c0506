"""Exit statuses, signals and pipes, of real processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import CIRILLA, call, environment, spawn


def started(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(CIRILLA), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def after(process: "subprocess.Popen[str]", beginning: str, number: signal.Signals) -> tuple[int, str, str]:
    """Wait until a line of stderr begins so, send the signal, and return what the process left."""
    assert process.stderr is not None
    heard = ""
    while not heard.startswith(beginning):
        heard = process.stderr.readline()
        assert heard, "the process ended before"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def pipeline(*commands: str) -> tuple[list[int], str, str]:
    """The statuses of all commands of a pipe, and what it left on its streams; `cirilla` is this environment's."""
    script = " | ".join(commands) + '; echo "${PIPESTATUS[@]}" > statuses'
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**environment(), "PATH": f"{CIRILLA.parent}:/usr/bin:/bin"},
    )
    return [int(status) for status in Path("statuses").read_text(encoding="utf-8").split()], done.stdout, done.stderr


def test_0_is_done(lab: Path) -> None:
    assert spawn("--version").code == 0


def test_1_is_a_mistake_and_2_a_wrong_call(lab: Path) -> None:
    mistake = spawn("pretrain", "nonsense", "--json")
    assert (mistake.code, mistake.err) == (1, "")
    assert json.loads(mistake.out)["error"].startswith("`nonsense`: no override")
    wrong = spawn("pretrain", "--nonsense")
    assert (wrong.code, wrong.out) == (2, "")
    assert "No such option: --nonsense" in wrong.err
    assert spawn().code == 2


def test_a_wrong_call_with_json_is_one_object_on_stdout(lab: Path) -> None:
    wrong = spawn("pretrain", "--nonsense", "--json")
    assert (wrong.code, wrong.err) == (2, "")
    assert json.loads(wrong.out) == {
        "error": "No such option: --nonsense", "hint": "cirilla --help; cirilla VERB --help", "where": []
    }  # fmt: skip


def test_a_bug_keeps_its_traceback(lab: Path) -> None:
    script = "import sys; from cirilla_cli.cli import app, recipes; from cirilla_cli.recipe import builtin\n"
    script += "builtin.list_recipes = lambda: 1 / 0\nsys.argv = ['cirilla', 'recipe', 'list']\napp.main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_3_is_interrupted_with_the_state_saved_and_the_same_command_continues(
    number: signal.Signals, lab: Path
) -> None:
    words = ["pretrain", "tiny.yaml", "train.steps=100000", "--out", "long"]
    code, out, err = after(started(*words), "pretrain 1/", number)
    assert (code, out) == (3, "")
    assert f"error: {number.name}: stopped after step " in err
    assert "state saved in long" in err
    assert "the same command continues" in err
    stopped = max(int(path.name[5:]) for path in Path("long/checkpoints").glob("step-*"))
    again = call("pretrain", "tiny.yaml", f"train.steps={stopped + 2}", "--out", "long", "--json")
    report = json.loads(again.out)
    assert (again.code, report["continued_from"], report["step"]) == (0, stopped, stopped + 2)


def test_4_is_an_outside_service(lab: Path) -> None:
    done = spawn("synth", "documents.jsonl", "--teacher", "ollama:x@http://127.0.0.1:9", "--out", "new", "--json")
    assert (done.code, done.err) == (4, "recipe: default (synth)\n")
    assert "http://127.0.0.1:9" in json.loads(done.out)["error"]


def test_130_is_interrupted_with_nothing_to_save(lab: Path) -> None:
    code, out, err = after(started("tokenize", "-"), "recipe: default", signal.SIGINT)
    assert (code, out, err) == (130, "", "interrupted; nothing was left to save\n")


_LOST = """
import os, signal, sys, time, weakref
sys.argv = ["cirilla"]
from cirilla_cli.cli import app, start

class Here:
    def __del__(self):
        if sys.argv[0] == "finalizer":
            signal.raise_signal(signal.SIGINT)

def work():
    sys.argv = sys.argv[1:] or ["HOW"]
    here = Here()
    if sys.argv[0] == "callback":
        watch = weakref.ref(here, lambda _: signal.raise_signal(signal.SIGINT))
    if sys.argv[0] == "import":
        signal.raise_signal(signal.SIGINT)
    del here
    for _ in range(200):
        time.sleep(0.1)
    print("it was lost")

app.main = work
start.main()
"""


@pytest.mark.parametrize("how", ["finalizer", "callback", "import"])
def test_an_interrupt_where_python_drops_exceptions_is_heard_all_the_same(how: str) -> None:
    call = [sys.executable, "-c", _LOST.replace("HOW", how)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted; nothing was left to save\n")


def test_the_module_runs_as_the_program_also_with_worker_processes(lab: Path) -> None:
    words = [
        "-m",
        "cirilla_cli",
        "tokenize",
        "documents.jsonl",
        "tokenize.workers=2",
        "tokenize.tokenizer.vocab_size=400",
    ]
    done = subprocess.run(
        [sys.executable, *words, "--out", "two", "-q"], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    for shard in Path("tok/shards/text").glob("*.bin"):
        assert (Path("two/shards/text") / shard.name).read_bytes() == shard.read_bytes()


def test_the_data_verbs_make_one_pipe(lab: Path) -> None:
    statuses, out, err = pipeline(
        "cirilla scrape quickstart --limit 8 --out - -q", "cirilla synth --source fandom - --out - -q",
        "cirilla tokenize - tokenize.tokenizer.vocab_size=400 --out piped --json",
    )  # fmt: skip
    assert statuses == [0, 0, 0]
    report = json.loads(out)
    assert report["out"] == "piped"
    assert report["rows"] == len(Path("synth/samples.jsonl").read_text(encoding="utf-8").splitlines())
    assert report["round_trip_failures"] == 0
    assert err == "recipe: default (synth)\nrecipe: default (tokenize)\n" or err == "recipe: default (tokenize)\n"


@pytest.mark.parametrize(
    "commands",
    [
        ("cirilla scrape quickstart --out - -q", "head -1"),
        ("cirilla scrape quickstart --out - -q", "cirilla synth --source fandom - --out - -q", "head -1"),
        ("cirilla scrape quickstart --out - -q --json", "cirilla synth --source fandom - --out - -q --json", "head -1"),
        ("cirilla recipe schema", "head -c 1"),
        ("cirilla recipe list --json", "head -c 1"),
        ("cirilla --help", "head -1"),
    ],
)
def test_a_pipe_that_closes_early_is_no_error(commands: tuple[str, ...], lab: Path) -> None:
    statuses, out, err = pipeline(*commands)
    assert statuses == [0] * len(commands)
    assert err == ""
    assert out


@pytest.mark.parametrize("stderr", ["2>&1 >/dev/null | head -1", "2>&-"], ids=["pipe", "closed"])
def test_training_goes_on_where_nobody_hears_of_it(stderr: str, lab: Path) -> None:
    statuses, out, err = pipeline(f"cirilla pretrain tiny.yaml train.steps=9 -v --out unheard {stderr}")
    assert set(statuses) == {0}
    assert (len(out.splitlines()), err) == ((1, "") if "head" in stderr else (0, ""))
    last = Path("unheard/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["step"] == 9


def test_a_mistake_that_nobody_hears_of_keeps_its_status(lab: Path) -> None:
    assert pipeline("cirilla pretrain nonsense 2>&1 >/dev/null", "true") == ([1, 0], "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", ["recipe list", "recipe list --json", "--version"])
def test_standard_output_without_room_is_named(words: str, lab: Path) -> None:
    statuses, _, err = pipeline(f"cirilla {words} > /dev/full")
    assert statuses == [1]
    assert err.splitlines()[0] == "error: standard output: No space left on device"
    assert "Traceback" not in err


@pytest.mark.parametrize(("words", "code"), [("sft nonsense --json", 1), ("sft --nonsense --json", 2)])
def test_a_refusal_into_a_closed_pipe_keeps_its_status_without_a_traceback(words: str, code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [str(CIRILLA), *words.split()], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment()
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, "")


def test_generation_into_a_closed_pipe_is_no_error(lab: Path) -> None:
    Path("prompts").write_text("Geralt\n" * 300, encoding="utf-8")
    statuses, out, err = pipeline("cirilla generate runs/sft -q -n 2 generate.batch=1 --json < prompts", "head -1")
    assert (statuses, err) == ([0, 0], "")
    assert json.loads(out)["prompt"] == "Geralt"


def test_standard_output_is_data_alone(lab: Path) -> None:
    done = spawn("scrape", "quickstart", "--limit", "3", "--out", "-")
    assert [json.loads(line)["title"] for line in done.out.splitlines()]
    assert done.err
    assert spawn("scrape", "quickstart", "--limit", "3", "--out", "-", "-q").err == ""
    tokenized = call("tokenize", "documents.jsonl", "tokenize.tokenizer.vocab_size=400", "--out", "new")
    assert tokenized.out == ""
    assert "4.8" in tokenized.err.replace("k", "")


def test_prompts_come_from_lines_of_standard_input(lab: Path) -> None:
    done = call(
        "generate", "runs/sft", "-n", "3", "-t", "0", "-q", "--json", stdin="Geralt\n\nCiri's\u2028eyes\r\nRivia"
    )
    rows = [json.loads(line) for line in done.out.split("\n")[:-1]]
    assert [row["prompt"] for row in rows] == ["Geralt", "Ciri's\u2028eyes", "Rivia"]
    for row in rows:
        assert set(row) == {"prompt", "prompt_tokens", "text", "tokens", "logprobs", "finish_reason", "seconds"}
        assert len(row["tokens"]) == len(row["logprobs"]) <= 3
    alone = call("generate", "runs/sft", "-n", "3", "-t", "0", "-q", "-p", "Geralt")
    assert alone.out == rows[0]["text"] + "\n"


def test_ids_in_give_ids_out_without_a_tokenizer(lab: Path) -> None:
    ids = "1 50 60"
    told = json.loads(
        call("generate", "runs/sft", "--prompt-ids", ids, "-n", "4", "-t", "0", "--ignore-eos", "--json").out
    )
    assert call("push", "runs/sft", "--to", "dir:folder", "-q").code == 0
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        Path("folder", name).unlink(missing_ok=True)
    words = ["generate", "folder", "--prompt-ids", ids, "-n", "4", "-t", "0", "--ignore-eos", "--dtype", "float32"]
    assert json.loads(call(*words, "--json").out)["tokens"] == told["tokens"]
    assert [int(word) for word in call(*words).out.split()] == told["tokens"]
    several = call(*words[:2], "--prompt-ids", ids, "-n", "4", "-t", "0", "--ignore-eos", "-q")
    assert several.code == 0


@pytest.mark.parametrize(
    "words",
    [
        "scrape quickstart --limit 2 --out new",
        "synth documents.jsonl --out new",
        "tokenize documents.jsonl tokenize.tokenizer.vocab_size=400 --out new",
        "pretrain tiny.yaml --out runs/pre",
        "pretrain tiny.yaml --dry-run",
        "eval runs/sft --text documents.jsonl --out new",
        "generate runs/sft -p x -n 1",
        "push runs/sft --to dir:new",
        "push runs/sft --to dir:new --dry-run",
        "runs",
        "recipe list",
        "recipe show tiny.yaml",
        "recipe check tiny.yaml",
        "recipe diff quickstart/sft quickstart/dpo --verb sft",
        "init new --files documents.jsonl",
        "run quickstart --dry-run",
    ],
)
def test_json_is_one_value_on_one_line(words: str, lab: Path) -> None:
    done = call(*words.split(), "--json")
    assert done.code == 0, done
    assert len(done.out.splitlines()) == 1
    json.loads(done.out)


def test_eval_of_one_text_gives_the_four_numbers(lab: Path) -> None:
    done = call("eval", "runs/sft", "--text", "documents.jsonl", "--out", "new", "--json")
    numbers = json.loads(done.out)
    texts = [json.loads(line)["text"] for line in Path("documents.jsonl").read_text(encoding="utf-8").splitlines()]
    assert set(numbers) == {"bits_per_byte", "perplexity", "bytes", "tokens"}
    assert numbers["bytes"] == sum(len(text.encode()) for text in texts)


def test_a_finished_run_says_so_and_does_nothing(lab: Path) -> None:
    before = Path("runs/pre/metrics.jsonl").read_bytes()
    done = call("pretrain", "tiny.yaml", "--out", "runs/pre")
    assert (done.code, "done already: runs/pre, step 2" in done.err) == (0, True)
    assert Path("runs/pre/metrics.jsonl").read_bytes() == before
