"""From a stream of tokens to a stream of text that never shows half a character or part of a stop string."""

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Decodes token by token; the pieces add up to the decoding of all tokens at once.

    A character may span tokens (an emoji is up to four in byte-level BPE): while the decoded tail ends in U+FFFD it is
    held back, at the latest until `flush`. Only the tokens since the last release, with those of the release before as
    context, are decoded again.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # tokens before this are forgotten
        self._released = 0  # tokens before this have been shown

    def push(self, token: int) -> str:
        """Add a token; returns the text that is now certain."""
        self._ids.append(token)
        shown, whole = self._decode(self._context, self._released), self._decode(self._context, None)
        if whole.endswith(_REPLACEMENT):
            return ""
        self._context, self._released = self._released, len(self._ids)
        return whole[len(shown) :]

    def flush(self) -> str:
        """The rest, whole characters or not."""
        shown, whole = self._decode(self._context, self._released), self._decode(self._context, None)
        self._context = self._released = len(self._ids)
        return whole[len(shown) :]

    def _decode(self, start: int, end: int | None) -> str:
        text: str = self._tokenizer.decode(
            self._ids[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class StopStrings:
    """Ends a text at the first of some strings; what could still become one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; returns what may be shown. After a stop string nothing more is."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        return self._release(self._possible_start())

    def flush(self) -> str:
        """The rest, at the end of the answer."""
        return self._release(0)

    def _release(self, hold: int) -> str:
        cut = len(self._held) - hold
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _possible_start(self) -> int:
        """Length of the longest tail that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
