"""Long texts in overlapping windows, so that an NER engine's memory does not grow with a text.

A pipeline takes some 3 KB a character. Windows are cut at blanks; a name is taken from the window in which it stands
further from a cut. Texts up to `MAX_CHARS` go through whole.
"""

from collections.abc import Callable, Sequence

from ftlib.text.pii.finding import Finding

MAX_CHARS = 20_000
_OVERLAP_CHARS = 400
_WINDOWS_AT_ONCE = 8

Find = Callable[[Sequence[str]], list[list[Finding]]]


def find_names(find: Find, texts: Sequence[str], max_chars: int = MAX_CHARS) -> list[list[Finding]]:
    """An engine's findings of each text, with offsets into it."""
    short = [text for text in texts if len(text) <= max_chars]
    found = iter(find(short) if short else [])
    return [next(found) if len(text) <= max_chars else _find_long(find, text, max_chars) for text in texts]


def windows(text: str, max_chars: int = MAX_CHARS, overlap_chars: int = _OVERLAP_CHARS) -> list[tuple[int, int]]:
    """Places of windows that cover a text, each overlapping the one before it; cut at blanks where there are some."""
    places = []
    start = 0
    while True:
        end = min(len(text), start + max_chars)
        if end < len(text):
            blank = max(text.rfind(" ", end - overlap_chars // 2, end), text.rfind("\n", end - overlap_chars // 2, end))
            end = blank if blank > start else end
        places.append((start, end))
        if end == len(text):
            return places
        next_start = end - overlap_chars
        blank = text.find(" ", next_start, next_start + overlap_chars // 4)
        start = blank + 1 if blank >= 0 else next_start


def _find_long(find: Find, text: str, max_chars: int) -> list[Finding]:
    places = windows(text, max_chars, min(_OVERLAP_CHARS, max_chars // 4))
    kept: list[Finding] = []
    for first in range(0, len(places), _WINDOWS_AT_ONCE):
        chosen = places[first : first + _WINDOWS_AT_ONCE]
        results = find([text[start:end] for start, end in chosen])
        for index, ((start, _), findings) in enumerate(zip(chosen, results, strict=True), first):
            low = _middle(places, index) if index else 0
            high = _middle(places, index + 1) if index + 1 < len(places) else len(text)
            moved = (Finding(f.start + start, f.end + start, f.entity, f.score) for f in findings)
            kept += [f for f in moved if low <= f.start < high]
    return kept


def _middle(places: Sequence[tuple[int, int]], index: int) -> int:
    """Where one window leaves off and the next one counts: the middle of what they share."""
    return (places[index][0] + places[index - 1][1]) // 2
