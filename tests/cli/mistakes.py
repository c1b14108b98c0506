"""The mistakes that the tests make: the files, the call, and what the message must say."""

from dataclasses import dataclass

from program import RECIPE

BINARY = bytes(range(256)) * 4
CHAT = '{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ciri."}]}\n'
DOCUMENT = '{"id": "a", "title": "A", "text": "Some text."}\n'
SFT = "sft quickstart {} model.path=runs/pre --out new"
SOME = "generate runs/sft -n 2 -p x"


@dataclass(frozen=True)
class Case:
    """One mistake: files to write, the call, and what the message must say."""

    words: str
    says: tuple[str, ...]
    files: dict[str, str | bytes | None]
    """None makes a folder."""
    code: int = 1
    stdin: str | bytes = ""


def case(words: str, *says: str, code: int = 1, stdin: str | bytes = "", **files: str | bytes | None) -> Case:
    return Case(
        words, says, {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}, code, stdin
    )


CASES = {
    # Recipes.
    "broken YAML": case("pretrain b.yaml", "b.yaml:", "not YAML", b_yaml=RECIPE + "optim: {lr: [\n"),
    "an unknown key": case(
        "pretrain b.yaml", "b.yaml:7: `train.stpes`", "did you mean `steps`", b_yaml=RECIPE.replace("steps", "stpes")
    ),
    "a wrong type": case(
        "pretrain b.yaml", "b.yaml:7: `train.steps` is 'many'", b_yaml=RECIPE.replace("steps: 2", "steps: many")
    ),
    "a NUL byte": case("pretrain b.yaml", "b.yaml:9: not YAML: a control character", b_yaml=RECIPE + "name: \0x\n"),
    "a recipe that is not UTF-8": case(
        "pretrain b.yaml", "b.yaml:9: not UTF-8", b_yaml=RECIPE.encode() + b"name: \xff\n"
    ),
    "a binary recipe": case("pretrain b.yaml", "b.yaml:", "not UTF-8", b_yaml=BINARY),
    "a key of 100 KB": case("pretrain b.yaml", "b.yaml:9: not YAML", b_yaml=RECIPE + "y" * 100_000 + ": 1\n"),
    "a value of 100 KB": case("pretrain b.yaml", "File name too long", b_yaml=RECIPE + "name: " + "y" * 100_000 + "\n"),
    "brackets 50,000 deep": case(
        "pretrain b.yaml", "b.yaml:9: more than", b_yaml=RECIPE + "seed: " + "[" * 50_000 + "\n"
    ),
    "a missing recipe": case("pretrain nope.yaml", "no recipe at `nope.yaml`"),
    "a folder for a recipe": case("pretrain d.yaml", "cannot read `d.yaml`: Is a directory", d_yaml=None),
    "a recipe for another verb": case(
        "pretrain b.yaml", "b.yaml:1:", "cirilla scrape", b_yaml="recipe: 1\nscrape: {source: {kind: files, path: x}}\n"
    ),
    "no steps": case("pretrain tiny.yaml train.steps=0", "`train.steps` is 0, must be more than 0"),
    "a learning rate that is no number": case(
        "pretrain tiny.yaml optim.lr=.nan", "`optim.lr` is '.nan', must be a number"
    ),
    "a seed too large": case("pretrain tiny.yaml seed=5000000000", "`seed` is 5000000000, must be"),
    "heads that do not divide the width": case("pretrain tiny.yaml model.mixers.A.n_heads=5", "n_heads (5)"),
    "an override through a number": case("pretrain tiny.yaml train.steps.x=1", "`train.steps` is 2, no section"),
    "a model beyond all memory": case("pretrain tiny.yaml model.d_model=1000000000 --out new", "out of memory"),
    # Rows.
    "malformed rows to tokenize": case(
        "tokenize x.jsonl --out new",
        "x.jsonl:2: not JSON",
        "x.jsonl:3: a JSON object",
        "x.jsonl:4: half-written",
        x_jsonl=DOCUMENT + "{nope}\n[1]\n" + DOCUMENT[:20],
    ),
    "malformed rows on standard input": case(
        "tokenize - --out new", "input.jsonl:2: not JSON", stdin=DOCUMENT + "{nope}\n"
    ),
    "malformed rows to synth": case(
        "synth x.jsonl --out new", "x.jsonl:2: half-written", x_jsonl=DOCUMENT + DOCUMENT[:20]
    ),
    "malformed rows to sft": case(SFT.format("x.jsonl"), "x.jsonl:2: half-written", x_jsonl=CHAT + CHAT[:40]),
    "an unknown role": case(
        SFT.format("x.jsonl"), "x.jsonl:2: turn 1: role is 'wizard'", x_jsonl=CHAT + CHAT.replace("user", "wizard")
    ),
    "documents for sft": case(SFT.format("documents.jsonl"), "documents.jsonl: holds nothing that can be read as chat"),
    "chats for dpo": case(
        "dpo quickstart samples.jsonl model.path=runs/sft --out new", "nothing that can be read as preference"
    ),
    "an empty corpus to tokenize": case("tokenize x.jsonl --out new", "no text", x_jsonl=""),
    "an empty text to tokenize": case("tokenize x.txt --out new", "no text", x_txt="\n\n"),
    "an empty corpus to synth": case("synth x.jsonl --out new", "made no samples", x_jsonl=""),
    "an empty corpus to sft": case(SFT.format("x.jsonl"), "x.jsonl: no rows", x_jsonl=""),
    "an empty corpus to scrape": case("scrape --files e --out new", "no documents came of it: 1 short", e__x_txt=""),
    "an empty dump": case("scrape --dump x.xml --out new", "x.xml: the dump is empty", x_xml=""),
    "a dump cut short": case(
        "scrape --dump x.xml --out new", "x.xml:1: not well-formed XML", x_xml="<mediawiki><page>"
    ),
    "an empty folder to tokenize": case("tokenize e --out new", "e: no text or rows in this folder", e=None),
    "an empty folder to scrape": case("scrape --files e --out new", "e: holds no .txt", e=None),
    "an empty folder to synth": case("synth e --out new", "e: no text or rows in this folder", e=None),
    "an empty folder for a model": case("generate e -p x", "e: no model here: looked for checkpoints/", e=None),
    "an empty standard input": case("synth - --out -", "made no samples"),
    "a binary file as text": case("tokenize x.txt --out new", "x.txt: not UTF-8 (byte 128)", x_txt=BINARY),
    "a binary file as rows": case("tokenize x.jsonl --out new", "x.jsonl:2: not UTF-8", x_jsonl=BINARY),
    "a binary file to scrape": case("scrape --files e --out new", "1 not UTF-8", e__x_txt=BINARY),
    "a binary file to evaluate": case("eval runs/sft --text x.txt --out new", "x.txt: not UTF-8", x_txt=BINARY),
    "a binary file of prompts": case("generate runs/sft --prompt-file x.txt", "x.txt:2: not UTF-8", x_txt=BINARY),
    "a prompt in another encoding": case(
        f"{SOME} --prompt Yennefer\udce9", "`--prompt` holds bytes that are not UTF-8"
    ),
    "half a surrogate pair for a prompt": case("generate runs/sft --prompt=\ud800", "`--prompt` holds bytes"),
    "a system turn in another encoding": case(f"{SOME} --system \udce9", "`--system` holds bytes"),
    "a stop string in another encoding": case(f"{SOME} --stop \udce9", "`--stop` holds bytes"),
    "a model in another encoding": case("generate runs/\udce9 -p x", "`argument 2` holds bytes"),
    "a place in another encoding": case("pretrain tiny.yaml -o o\udce9", "`-o` holds bytes"),
    "an override in another encoding": case("pretrain tiny.yaml name=o\udce9", "`name` holds bytes"),
    "a source in another encoding": case(
        "scrape --dump \udce9.xml --category \udce9", "`--dump` holds", "`--category`"
    ),
    "a teacher in another encoding": case("synth --teacher ollama:\udce9", "`--teacher` holds bytes"),
    "a text in another encoding to evaluate": case("eval runs/sft --text \udce9", "`--text` holds bytes"),
    "a destination in another encoding": case("push runs/sft --to dir:\udce9", "`--to` holds bytes"),
    "a project in another encoding": case("init \udce9 --files documents.jsonl", "`argument 2` holds bytes"),
    "runs in another encoding": case("runs \udce9", "`argument 2` holds bytes"),
    "a recipe in another encoding": case("recipe check \udce9.yaml", "`argument 3` holds bytes"),
    "a key in another encoding": case("recipe explain \udce9", "`argument 3` holds bytes"),
    "a verb in another encoding": case("\udce9", "`argument 1` holds bytes"),
    "a file's name in another encoding to tokenize": case(
        "tokenize e --out new", "'e/\\udce9.txt': the file's name is not", **{"e__\udce9_txt": "x"}
    ),
    "a file's name in another encoding to scrape": case(
        "scrape --files e --out new", "'e/\\udce9.txt': the file's name", **{"e__\udce9_txt": "x"}
    ),
    "binary prompts on standard input": case("generate runs/sft", "<stdin>:2: not UTF-8", stdin=b"Geralt\n\xff\n"),
    "a folder for rows": case("tokenize x.jsonl --out new", "x.jsonl: no text or rows", x_jsonl=None),
    "a folder for a dump": case("scrape --dump e --out new", "e: the dump cannot be read: Is a directory", e=None),
    "a folder for prompts": case("generate runs/sft --prompt-file e", "e: cannot be read: Is a directory", e=None),
    "a file for a model": case("generate documents.jsonl -p x", "documents.jsonl: a file; a model is a folder"),
    "a missing dump": case("scrape --dump nope.xml --out new", "nope.xml:", "No such file"),
    "a missing file": case("tokenize ./nope.jsonl --out new", "nope.jsonl: no such file"),
    "a vocabulary without room for bytes": case(
        "tokenize documents.jsonl tokenize.tokenizer.vocab_size=10 --out new",
        "`tokenizer.vocab_size` is 10, must be more than",
    ),
    # Texts against the model's context.
    "a prompt longer than the context": case(
        "generate runs/sft", "prompt 1: it has", "context of 64", stdin="long " * 200
    ),
    "conversations longer than the context": case(
        SFT.format("x.jsonl") + " data.val=0",
        "training data",
        "is empty",
        "context_length",
        x_jsonl=CHAT.replace("Who?", "q " * 300),
    ),
    # What generate is asked.
    "ids that are no numbers": case("generate runs/sft --prompt-ids abc", "`--prompt-ids` is 'abc'"),
    "no ids": case("generate runs/sft --prompt-ids=", "prompt 1: it is empty"),
    "ids beyond the vocabulary": case(
        "generate runs/sft --prompt-ids 1,999999", "999999 is not a token id of this model; they are 0 to 399"
    ),
    "a negative id": case("generate runs/sft --prompt-ids 1,-1", "-1 is not a token id"),
    "a negative temperature": case(f"{SOME} --temperature -1", "`generate.temperature` is -1.0, must be at least 0"),
    "a temperature that is no number": case(f"{SOME} --temperature nan", "`generate.temperature` is"),
    "top_p of 0": case(f"{SOME} --top-p 0", "`generate.top_p` is 0.0, must be more than 0"),
    "no new tokens": case("generate runs/sft -p x -n 0", "`generate.max_new_tokens` is 0"),
    "no prompt": case("generate runs/sft", "standard input is empty"),
    "an unknown number format": case(f"{SOME} --dtype int3", "`generate.dtype` is 'int3', must be one of"),
    "an unknown device": case(f"{SOME} --device tpu", "`device` is 'tpu', must be one of"),
    # Models.
    "a path that looks like a name on the Hub": case(
        "generate ./someone/model -p x", "./someone/model: there is no such folder"
    ),
    "a missing model": case("generate runs/nope -p x", "runs/nope: there is no such folder"),
    "a Hugging Face model of another type": case(
        "generate hf -p x", "`model_type` is 'gptj'", hf__config_json='{"model_type": "gptj"}'
    ),
    "a Hugging Face model whose config is torn": case(
        "generate hf -p x", "hf/config.json: not JSON", hf__config_json="{"
    ),
    "nothing to measure": case("eval runs/sft --out new", "nothing to measure"),
    "a missing text to measure": case("eval runs/sft --text nope.txt --out new", "nope.txt: no such file"),
    "an empty text to measure": case(
        "eval runs/sft --text x.txt --out new", "x.txt: there is no text to score", x_txt=""
    ),
    "malformed questions": case(
        "eval runs/sft --questions q.jsonl --out new",
        "q.jsonl:1: `answers` is missing",
        "q.jsonl:2: half",
        q_jsonl='{"question": "x"}\n{',
    ),
    "nowhere to push": case("push runs/sft", "`push.to` is missing"),
    "somebody's folder to push to": case(
        "push runs/sft --to dir:mine", "mine: holds files that push did not write: a.txt", mine__a_txt="x"
    ),
    "missing scores to push": case("push runs/sft --to dir:new --scores nope.json", "nope.json: no such file"),
    # Where results go.
    "a file for a run": case("pretrain tiny.yaml --out o", "o: is a file, and a folder is to be written there", o="x"),
    "a file above a run": case("pretrain tiny.yaml --out o/p", "o: is a file", o="x"),
    "a file for a tokenizer": case("tokenize documents.jsonl --out o", "o: is a file", o="x"),
    "a file for scores": case("eval runs/sft --text documents.jsonl --out o", "o: is a file", o="x"),
    "a file for a pipeline": case("run quickstart --out o", "o: is a file", o="x"),
    "a file to push to": case("push runs/sft --to dir:o/p", "o: is a file", o="x"),
    "a file for a project": case("init o --files documents.jsonl", "o: is a file", o="x"),
    "a folder for rows to write": case(
        "synth documents.jsonl --out o.jsonl", "o.jsonl: is a folder, and a file is to be written", o_jsonl=None
    ),
    "a place that cannot be written": case("pretrain tiny.yaml --out /proc/x/y", "/proc/x/y: cannot be written"),
    "a copy where nothing can be written": case(
        "recipe copy quickstart/pretrain /proc/x.yaml", "/proc: cannot be written"
    ),
    "a name too long": case("tokenize documents.jsonl --out " + "x" * 300, "cannot be written: File name too long"),
    "an empty place": case("tokenize documents.jsonl --out=", "`out` is empty"),
    "shards to standard output": case("tokenize documents.jsonl --out -", "`out` means standard output"),
    "an input written over by scrape": case(
        "scrape --files documents.jsonl --out documents.jsonl", "is read, and would be written over"
    ),
    "an input written over by synth": case(
        "synth documents.jsonl --out ./documents.jsonl", "is read, and would be written over"
    ),
    "a copy over a file": case("recipe copy quickstart/pretrain tiny.yaml", "tiny.yaml: exists already"),
    "a project over a folder": case("init tok --files documents.jsonl", "tok: exists already"),
    "a run of another recipe": case("pretrain tiny.yaml optim.lr=0.5 --out runs/pre", "`optim.lr` was 0.02, is 0.5"),
    "nothing to resume": case("pretrain tiny.yaml --resume --out new", "new: no checkpoint to resume from"),
    # Pipelines.
    "a pipeline without stages": case(
        "run p.yaml", "p.yaml: the pipeline has no stages", p_yaml="recipe: 1\nstages: {}\n"
    ),
    "an unknown stage": case(
        "run p.yaml",
        "p.yaml:3: `stages.a.with.synth.inputs` names `b`",
        p_yaml='recipe: 1\nstages:\n  a: {verb: synth, with: {synth.inputs: ["{b}/x"]}}\n',
    ),
    "an override of a stage": case(
        "run p.yaml",
        "p.yaml:4: stage `a`: `train.stps` is not a key here; did you mean `steps`",
        p_yaml="recipe: 1\nstages:\n  a: {verb: pretrain, recipe: tiny.yaml,\n    with: {train.stps: 1}}\n",
    ),
    "a recipe to run": case(
        "run tiny.yaml", "tiny.yaml:2: this is a recipe for `cirilla pretrain`, not for `cirilla run`"
    ),
    # Outside services.
    "no Ollama": case(
        "synth documents.jsonl --teacher ollama:x@http://127.0.0.1:9 --out new",
        "http://127.0.0.1:9",
        "ollama serve",
        code=4,
    ),
    "a Hub out of reach": case("generate someone/model -p x", "someone/model: the Hub cannot be reached", code=4),
    "a teacher's address that is none": case(
        "synth documents.jsonl --teacher ollama:x@ftp://y --out new", "expected ollama:MODEL@URL"
    ),
    "an api that is no address": case(
        "scrape --api nonsense --contact a@b.org --out new", "`scrape.source.api` is 'nonsense'"
    ),
    "a wiki that forbids it": case("scrape default --out new", "its terms forbid automated access"),
    # Calls.
    "an unknown flag": case("pretrain tiny.yaml --nope", "No such option: --nope", code=2),
    "an unknown verb": case("pretran tiny.yaml", "No such command 'pretran'", code=2),
    "a flag's value of the wrong type": case("generate -n abc", "--max-new-tokens", code=2),
    "two sources": case("scrape --api x --dump y", "one source at a time", code=2),
    "flags that contradict": case("pretrain tiny.yaml --fresh --resume", "contradict each other", code=2),
    "a project of a dump from a server of another kind": case(
        "init new --dump ftp://example.org/wiki.xml", "`--dump` is 'ftp://example.org/wiki.xml'"
    ),
    "a project of a wiki without its scheme": case("init new --wiki example.org", "`--wiki` is 'example.org'"),
    "a project's contact that no header takes": case(
        "init new --wiki https://example.org --contact \u00e9", "`--contact` is"
    ),
    "a project of a wiki without a contact": case("init new --wiki https://example.org", "no contact is given"),
    "a project of a wiki that forbids it": case(
        "init new --wiki https://witcher.fandom.com --contact a@b.c", "its terms forbid automated access", "dump"
    ),
    "a project of a folder without texts": case(
        "init new --files d", "d: holds no .txt, .md, .html or .jsonl file", d=None
    ),
    "a contact for a file": case("init new --files documents.jsonl --contact a@b.c", "goes with --wiki", code=2),
    "a text for a project's dump": case(
        "init new --dump x.txt", "x.txt:1: not well-formed XML", "a MediaWiki XML export is expected", x_txt="A text.\n"
    ),
    "a web page for a project's dump": case(
        "init new --dump x.xml", "x.xml:1: begins with <html>", x_xml="<html></html>"
    ),
    "an empty file for a project's dump": case("init new --dump x.xml", "x.xml: the dump is empty", x_xml=""),
    "an export without pages for a project": case(
        "init new --dump x.xml", "x.xml: holds no page", x_xml="<mediawiki/>"
    ),
    "a project's memory below zero": case("init new --files tok --budget -1GiB", "must be more than 0", "--budget cpu"),
    "a project's time below zero": case("init new --files tok --budget 16GiB,-8h", "must be more than 0"),
    "a project's time without an end": case("init new --files tok --budget cpu,999999999999h", "less than 100 years"),
    "a folder for a project's dump": case("init new --dump tok", "tok: is a folder, and a dump is one file"),
    "an address without its flag": case("scrape https://example.org/w/api.php", "--api ADDRESS reads a wiki"),
    "no source for a project": case("init new", "name one source", code=2),
    "a budget that is none": case("init new --files documents.jsonl --budget lots", "`--budget` is 'lots'"),
    "a project's name that leads elsewhere": case("init .. --files documents.jsonl", "the name must be letters"),
    "no such runs": case("runs nope", "nope: no such folder"),
    "a key of no recipe": case("recipe explain optim.lx", "did you mean `optim.lr`"),
    "a schema of no verb": case("recipe schema pretran", "`pretran` is not a verb"),
}
