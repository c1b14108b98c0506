"""The word someone probably meant."""

from collections.abc import Collection, Iterable

# What other programs call our keys.
_SYNONYMS = {
    "type": "kind", "learning_rate": "lr", "optimizer": "optim", "optimiser": "optim", "scheduler": "schedule",
    "lr_scheduler": "schedule", "evaluate": "eval", "evaluation": "eval", "checkpoints": "checkpoint",
    "checkpointing": "checkpoint", "dataset": "data", "loss": "objective", "max_steps": "steps", "num_epochs": "epochs",
    "output": "out", "output_dir": "out", "hidden_size": "d_model", "num_layers": "n_layers", "logging": "log",
    "max_tokens": "max_new_tokens", "intermediate_size": "d_ff", "seq_len": "context_length", "model_path": "path",
}  # fmt: skip


def distance(a: str, b: str) -> int:
    """Edits between two words: one character dropped, added or replaced, or two neighbours swapped."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, rows[i - 2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def _shared_ends(a: str, b: str) -> int:
    """Characters that two words have in common at their beginnings and ends."""
    best = 0
    for left, right in ((a, b), (a[::-1], b[::-1])):
        count = 0
        while count < min(len(left), len(right)) and left[count] == right[count]:
            count += 1
        best += count
    return best


def _closest(word: str, words: list[str], taken: Collection[str], limit: int) -> str | None:
    """Fewest edits, at most ``limit``; among equals one that is not taken, then the one that begins and ends alike."""
    plain = word.casefold().replace("-", "_")
    ranked = sorted((distance(plain, k.casefold()), k in taken, -_shared_ends(plain, k), k) for k in words)
    if not ranked:
        return None
    edits, _, _, best = ranked[0]
    return best if edits <= limit and edits < max(len(word), len(best)) else None


def one_edit(word: str, known: Iterable[str], taken: Collection[str] = ()) -> str | None:
    """The known word at most one edit from ``word``, one not ``taken`` before others."""
    return _closest(word, list(known), taken, 1)


def nearest(word: str, known: Iterable[str], taken: Collection[str] = ()) -> str | None:
    """The known word that ``word`` probably is: one edit off, another program's name for it, a third of the word
    off, or made of the same parts in another order (``n_head_kv`` for ``n_kv_heads``). None if nothing is near.
    """
    words = list(known)
    synonym = _SYNONYMS.get(word)
    return (
        one_edit(word, words, taken)
        or (synonym if synonym in words else None)
        or _alike(word, words, 0.9)
        or _closest(word, words, taken, len(word) // 3)
        or _alike(word, words, 0.75)
    )


def _alike(word: str, words: list[str], cutoff: float) -> str | None:
    from difflib import get_close_matches

    def parts(text: str) -> str:
        return "_".join(sorted(text.split("_")))

    by_parts = {parts(other): other for other in words}
    close = get_close_matches(parts(word), list(by_parts), n=1, cutoff=cutoff)
    return by_parts[close[0]] if close else None
