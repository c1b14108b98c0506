"""Whether samples made by rules are supported by their pages, and which of them to read: shares no code with cirilla.

    cirilla synth PAGES --out OUT
    python benchmarks/synth_quality.py OUT/samples.jsonl PAGES
    python benchmarks/synth_quality.py OUT/samples.jsonl PAGES --draw 200 --seed 1 --to reading.txt

PAGES is a folder of text files or a documents.jsonl. "Supported" is: of what is taken from a page, the answer stands
word for word in the evidence (or is all of it, joined by commas), and the evidence in the page; of what follows from
pages (alias, reverse, list, true/false, unanswerable, preference), it is computed again from the pages alone.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Pages = dict[str, Row]

TAKEN = {"infobox", "lead", "section", "cloze", "quick_answers", "listed", "noise"}


def pages_of(path: Path) -> Pages:
    """Pages by the name that a row's parents or source give them."""
    if path.is_dir() and not (path / "documents.jsonl").exists():
        files = sorted(path.glob("*.txt"))
        return {f"document: {file.stem}": {"title": file.stem, "text": file.read_text("utf-8-sig")} for file in files}
    path = path / "documents.jsonl" if path.is_dir() else path
    return {row["id"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}


def plain(text: str) -> str:
    """Without regard to case, spacing and a final full stop."""
    return " ".join(text.casefold().split()).rstrip(".")


def texts(page: Row) -> list[str]:
    """Everything that a page says, piece by piece."""
    boxes = [value for fact in page.get("infobox", []) for value in fact["values"]]
    return [page["text"], page["title"], *boxes, *(part["text"] for part in page.get("sections", []))]


def stands(piece: str, page: Row) -> bool:
    """Whether a piece stands in the page word for word; a file's name may have lost the title's slash."""
    return bool(piece) and any(piece in text for text in texts(page))


def taken(question: str, answer: str, evidence: list[str], page: Row) -> bool:
    """Whether an answer stands in its evidence, and that in the page; a gap's sentence must be the evidence."""
    joined = any(
        answer == ", ".join(evidence[a:b]) for a in range(len(evidence)) for b in range(a + 1, len(evidence) + 1)
    )
    return (joined or any(answer in piece for piece in evidence)) and all(stands(piece, page) for piece in evidence)


def filled(question: str, answer: str, page: Row) -> bool:
    """Whether the gapped sentence with the answer in its place ends the question, and stands in the page."""
    whole = question.replace("____", answer)
    return question.count("____") == 1 and any(stands(whole[at:], page) for at in range(len(whole) - 30))


def entry(claim: str, page: Row) -> bool:
    """Whether the infobox has ``label: value``."""
    facts = ((fact["label"], value) for fact in page.get("infobox", []) for value in fact["values"])
    return any(plain(f"{label}: {value}") == plain(claim) for label, value in facts)


def values(page: Row) -> list[str]:
    """All values of the infobox."""
    return [plain(value) for fact in page.get("infobox", []) for value in fact["values"]]


def words(text: str) -> set[str]:
    """Words of four letters or more, without a final s."""
    return {word.removesuffix("s") for word in re.findall(r"\w{4,}", text.casefold())}


def claimed(question: str, answer: str, evidence: list[str], page: Row) -> bool:
    """A statement is true if the page has it word for word; a false one is the evidence with one word other or more."""
    if answer == "True":
        return question.endswith(evidence[0]) and stands(evidence[0], page)
    right = evidence[0].split()
    said = question.split()[-len(right) :], question.split()[-len(right) - 1 :]
    changed = [number for number, word in enumerate(said[0]) if word != right[number]]
    numbers = [re.sub(r"\D", "", said[0][number]) for number in changed]
    other_number = len(changed) == 1 and numbers[0] != "" and numbers[0] not in page["text"]
    negated = "not" in said[1] and [word for word in said[1] if word != "not"] == [
        word for word in right if word != "not"
    ]
    return answer == "False" and stands(evidence[0], page) and (other_number or negated)


def supported(row: Row, pages: Pages) -> bool:
    """Whether a row is supported."""
    kind = row["generator"]["strategy"].split("/")[1]
    names = row["parents"] if row["parents"][0] in pages else [row["source"], *row["parents"][1:]]
    page, evidence = pages[names[0]], row["evidence"]
    said = [message["content"] for message in row["messages"]]
    if kind in TAKEN:
        good = taken(said[0], said[1], evidence, page)
        return good and (kind != "cloze" or filled(said[0], said[1], page))
    if kind == "multi_turn":
        return len(said) % 2 == 0 and all(taken("", answer, evidence, page) for answer in said[1::2])
    if kind == "text_claim":
        return claimed(said[0], said[1], evidence, page)
    if kind == "unmentioned":
        everything = [page["title"], *texts(page), *page.get("aliases", [])]
        everything += [fact["label"] for fact in page.get("infobox", [])]
        absent = not words(evidence[0]) & set().union(*map(words, everything))
        return absent and evidence[0] in said[0] and said[1] == f'The page does not mention "{evidence[0]}".'
    return across(kind, row, page, pages)


def across(kind: str, row: Row, page: Row, pages: Pages) -> bool:
    """What follows from several pages."""
    claim, said = row["evidence"][0], [message["content"] for message in row["messages"]]
    label, _, value = claim.partition(": ")
    if kind == "alias":
        named = [p for p in pages.values() if plain(claim) in map(plain, [p["title"], *p.get("aliases", [])])]
        return [p["title"] for p in named] == [said[1]]
    if kind == "reverse":
        return [p["title"] for p in pages.values() if plain(value) in values(p)] == [said[1]] and entry(claim, page)
    if kind == "list":
        return ", ".join(p["title"] for p in pages.values() if entry(claim, p)) == said[1]
    if kind == "true_false":
        return said[1] == str(entry(claim, page)) and claim in said[0]
    if kind == "unanswerable":
        labels = [plain(fact["label"]) for fact in page.get("infobox", [])]
        return plain(claim) not in labels and plain(claim) not in plain(page["text"]) and "not say" in said[1]
    if kind == "preference":
        wrong = plain(row["rejected"])
        return stands(row["evidence"][0], page) and not any(wrong in plain(text) for text in texts(page))
    return False


def told(row: Row, number: int) -> str:
    """A row as it is read."""
    kind = row["generator"]["strategy"].removeprefix("fandom/")
    said = [f"  {'QA'[at % 2]}: {message['content']}" for at, message in enumerate(row["messages"])]
    pair = [f"  right: {row['chosen']}", f"  wrong: {row['rejected']}"] if row["kind"] == "preference" else []
    return "\n".join([f"{number:03d} [{kind}] {row['id']}", *said, *pair])


def draw(rows: list[Row], count: int, seed: int, order: int) -> Iterable[str]:
    """``count`` rows by seed, as they are to be read; ``order`` is the seed of another order of the same rows."""
    picked = random.Random(seed).sample(rows, min(count, len(rows)))
    if order:
        random.Random(order).shuffle(picked)
    return (told(row, number) for number, row in enumerate(picked, 1))


def main() -> int:
    """Check, print, draw; 1 where less than 99% is supported or a page has fewer than five rows on average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("pages", type=Path)
    parser.add_argument("--draw", type=int, default=0, help="rows to draw for a reading")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--order", type=int, default=0, help="the same rows in another order, for a second reading")
    parser.add_argument("--to", type=Path, default=Path("reading.txt"), help="where the drawn rows go")
    asked = parser.parse_args()
    pages = pages_of(asked.pages)
    rows = [json.loads(line) for line in asked.samples.read_text("utf-8").splitlines()]
    made, good = Counter[str](), Counter[str]()
    for row in rows:
        kind = row["generator"]["strategy"].split("/")[1]
        made[kind] += 1
        good[kind] += supported(row, pages)
        if not supported(row, pages):
            print("not supported:", told(row, 0), row["evidence"], sep="\n", file=sys.stderr)
    answers = {(row["parents"][0], row["messages"][-1]["content"]) for row in rows}
    for kind, count in made.items():
        print(f"{kind:14} {count:6} rows  {good[kind] / count:8.2%} supported")
    print(f"{'all':14} {len(rows):6} rows  {good.total() / len(rows):8.2%} supported")
    print(
        f"{len(rows) / len(pages):.1f} rows a page, {len(answers) / len(pages):.1f} answers a page, {len(pages)} pages"
    )
    each = Counter(name_of(row, pages) for row in rows)
    print(f"{min(each[name] for name in pages)} rows at least on every page")
    if asked.draw:
        asked.to.write_text("\n".join(draw(rows, asked.draw, asked.seed, asked.order)) + "\n", "utf-8")
    return int(good.total() < 0.99 * len(rows) or len(rows) < 5 * len(pages))


def name_of(row: Row, pages: Pages) -> str:
    """The page that a row is about."""
    return row["parents"][0] if row["parents"][0] in pages else row["source"]


if __name__ == "__main__":
    raise SystemExit(main())
