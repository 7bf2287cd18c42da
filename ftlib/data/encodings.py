"""Find a file's encoding and line ends from its beginning, or refuse it with the encoding that it is likely in.

In: the first bytes of a file. Out: a `TextForm`. A byte order mark says it; else `input.encoding` does; else the file
must be UTF-8. A few rows that are not are quarantined one by one; a file of which many are not is in another encoding.
"""

import codecs
import re

from ftlib.core.errors import UserError
from ftlib.data.streams import TextForm

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN_SHARE = 0.1
_NUL_SHARE = 0.2
_GUESS_BYTES = 1 << 16
_COMMON = "cp1252"
_QUOTED = re.compile(r'"(?:[^"]++|"")*+"')


def text_form(source: str, head: bytes, encoding: str, csv: bool) -> TextForm:
    """The form of a text file that begins with `head`; raises UserError where it is in another encoding.

    `encoding`: `input.encoding`. `csv`: whether lines may end with a carriage return alone.
    """
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    name = marked or ("utf-8" if encoding == "auto" else codecs.lookup(encoding).name)
    if name == "utf-8-sig":
        name = "utf-8"
    if name == "utf-8":
        _check_utf8(source, head, named=encoding != "auto")
        text = head.decode("utf-8", "replace")
    else:
        text = codecs.getincrementaldecoder(name)("replace").decode(head)
        _check_decoded(source, text, name)
    return TextForm(name, csv and _ends_with_cr(text))


def _check_utf8(source: str, head: bytes, named: bool) -> None:
    foreign, total, international = [], 0, 0
    even, odd = head[::2].count(b"\0"), head[1::2].count(b"\0")
    if max(even, odd) > _NUL_SHARE * len(head) > 10 * min(even, odd):
        # ASCII in UTF-16 is valid UTF-8, with a NUL beside every letter.
        likely = "utf-16-le" if odd > even else "utf-16-be"
        raise UserError(_refusal(source, "every other byte is NUL and there is no byte order mark", likely))
    if head.isascii():
        return
    lines = re.split(rb"[\r\n]+", head)
    for line in lines[:-1] if len(lines) > 1 else lines:
        total += bool(line.strip())
        if not line.isascii():
            if _is_utf8(line, whole=len(lines) > 1):
                international += 1
            elif b"\0" not in line:
                foreign.append(line)
    if not foreign or len(foreign) <= international or len(foreign) < _FOREIGN_SHARE * total:
        return
    if len(foreign) > 1 or total <= 2:
        at = head.index(foreign[0])
        seen = f"{len(foreign)} of its first {total} lines are not UTF-8, the first at byte {at}"
        raise UserError(_refusal(source, seen, likely_encoding(b"\n".join(foreign))))


def _check_decoded(source: str, text: str, name: str) -> None:
    lines = [line for line in text.splitlines() if line.strip()]
    broken = sum("\ufffd" in line for line in lines)
    if broken > 1 and broken > _FOREIGN_SHARE * len(lines):
        raise UserError(
            f"{source}: {broken} of its first {len(lines)} lines cannot be read as {name}; "
            "give the encoding that the file was written in as input.encoding"
        )


def _is_utf8(line: bytes, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def _refusal(source: str, seen: str, likely: str | None) -> str:
    if likely is None:
        advice = "name the encoding that it was written in: input.encoding=NAME"
    else:
        advice = f"it is likely {likely}: set input.encoding={likely}, or convert it (iconv -f {likely} -t utf-8)"
    return f"{source}: not UTF-8: {seen}; {advice}"


def likely_encoding(content: bytes) -> str | None:
    """The encoding that a text is likely in, or None where nothing says it."""
    from charset_normalizer import from_bytes

    best = from_bytes(content[:_GUESS_BYTES]).best()
    names = best.could_be_from_charset if best else []
    if _COMMON in names or not names:
        # Few letters outside of ASCII fit many encodings: then the most common one.
        try:
            content.decode(_COMMON)
        except UnicodeDecodeError:
            return names[0] if names else None
        return _COMMON
    return names[0]


def _ends_with_cr(text: str) -> bool:
    """Whether all line ends outside of quotes are carriage returns alone."""
    if "\r" not in text:
        return False
    bare = _QUOTED.sub("", text).partition('"')[0]
    return "\r" in bare and "\n" not in bare
