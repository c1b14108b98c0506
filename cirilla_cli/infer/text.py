"""Token ids to text that can be shown: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Callable, Sequence

from cirilla_cli.data.tokenizer import Tokenizer


def text_of(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = ()) -> str:
    """The text of new ids up to the first stop string; a character still incomplete at the end is left out."""
    decoder = TextDecoder(tokenizer, stops)
    return "".join(decoder.add(id) for id in ids) + decoder.end()


class TextDecoder:
    """Turns ids into text as they come, holding back what may still turn out to be part of a stop string.

    The pieces together are exactly `text_of` all ids.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held, self.stopped = "", False

    def add(self, id: int) -> str:
        """The text that became certain with one more id, often none."""
        if self.stopped:
            return ""
        self._held += self._utf8.decode(self._tokenizer.piece_bytes(id))
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._begun())

    def end(self) -> str:
        """What was held back, once it is known that nothing follows."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text

    def _begun(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


def stop_matcher(tokenizer: Tokenizer, stops: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """Whether the last of some ids completes a stop string; None where there is none to look for.

    Looks only at as many last bytes as matter, so that a long continuation costs no more than a short one.
    """
    wanted = [stop.encode() for stop in stops if stop]
    if not wanted:
        return None
    longest = max(map(len, wanted))

    def matches(ids: list[int]) -> bool:
        tail = tokenizer.piece_bytes(ids[-1])
        enough = len(tail) + longest - 1
        for id in reversed(ids[:-1]):
            if len(tail) >= enough:
                break
            tail = tokenizer.piece_bytes(id) + tail
        return any(stop in tail for stop in wanted)

    return matches
