"""What is wrong with a text as data: placeholders, broken encoding, template residue, mixed dates, broken JSON.

In: one text. Out: names of issues, forms of dates, a mask. Every check is a cheap heuristic that names a suspicion for
a person to look at; none changes a text.
"""

import json
import re
import unicodedata

PLACEHOLDER, ENCODING, CONTROL, MARKUP, TEMPLATE = "placeholder", "encoding", "control_characters", "markup", "template"
ISSUES = {
    PLACEHOLDER: "Fields that hold a placeholder instead of content",
    ENCODING: "Fields with broken characters (wrong encoding on export)",
    CONTROL: "Fields with control or invisible characters",
    MARKUP: "Fields with HTML left in them",
    TEMPLATE: "Fields with an unfilled template variable",
}
FIXES = {
    PLACEHOLDER: "Fill the fields at the source or leave these records out; a model would learn to answer with them.",
    ENCODING: "Export again as UTF-8; U+FFFD cannot be repaired, text such as 'Ã©' can (UTF-8 read as Latin-1).",
    CONTROL: "Strip control and zero-width characters before training.",
    MARKUP: "Convert HTML to text, unless the model is to write HTML.",
    TEMPLATE: "Fill or remove variables such as {{name}}; the model would learn to print them.",
}
_PLACEHOLDERS = re.compile(
    r"(?i)\W*(?:n/?a|none|null|nil|nan|undefined|unknown|tbd|tba|todo|fixme|xxx+|test(?:ing)?|asdf+|qwerty|dummy|"
    r"placeholder|sample text|your text here|enter text|insert .{1,30} here|lorem ipsum.*|foo(?:bar)?|-+|\.+|\?+)\W*"
)
# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte's letter before a continuation byte's.
_MOJIBAKE = re.compile(r"Ã[\x80-\xbf¡-¿‚-™]|Â[\xa0-¿]|â€[\x80-\xbf™œ“”˜¦\x9d]?|ï»¿")
_TAG = re.compile(r"</?(?:p|br|div|span|a|b|i|li|ul|ol|td|tr|table|font|img|h[1-6]|strong|em)(?:\s[^<>]*)?/?>|&(?:nbsp|amp|lt|gt|quot|#\d+);", re.IGNORECASE)  # fmt: skip # noqa: E501
_VARIABLE = re.compile(r"\{\{\s*[\w .-]{1,40}\s*\}\}|\$\{[\w.]{1,40}\}|<%=?.{1,40}?%>|\{%.{1,40}?%\}|%\(\w{1,30}\)s")
_DATES = {
    "2024-01-31": re.compile(r"(?<![\d./-])(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"),
    "2024/01/31": re.compile(r"(?<![\d./-])(?:19|20)\d\d/(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01])(?!\d)"),
    "31.01.2024": re.compile(r"(?<![\d./-])(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])\.(?:19|20)?\d\d(?![\d.])"),
    "31/01/2024": re.compile(r"(?<![\d./-])(?:1[3-9]|2\d|3[01])[/-](?:0?[1-9]|1[0-2])[/-](?:19|20)?\d\d(?!\d)"),
    "01/31/2024": re.compile(r"(?<![\d./-])(?:0?[1-9]|1[0-2])[/-](?:1[3-9]|2\d|3[01])[/-](?:19|20)?\d\d(?!\d)"),
    "01/02/2024 (day or month first?)": re.compile(
        r"(?<![\d./-])(?:0?[1-9]|1[0-2])[/-](?:0?[1-9]|1[0-2])[/-](?:19|20)\d\d(?!\d)"
    ),
    "31 January 2024": re.compile(
        r"(?i)(?<!\w)\d{1,2}(?:st|nd|rd|th)?\s(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?,?\s(?:19|20)\d\d"
    ),
    "January 31, 2024": re.compile(
        r"(?i)(?<!\w)(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?\s\d{1,2}(?:st|nd|rd|th)?,?\s(?:19|20)\d\d"
    ),
}
_INVISIBLE = {"\u200b", "\u200c", "\u200e", "\u200f", "\u2060", "\ufeff", "\u00ad"}
_MASK_CHARS = 48


def issues(text: str) -> list[str]:
    """Names of what is suspicious about a text, of `ISSUES`, in their order."""
    found = {
        PLACEHOLDER: bool(_PLACEHOLDERS.fullmatch(text)) if len(text) < 400 else False,
        ENCODING: "\ufffd" in text or (not text.isascii() and _MOJIBAKE.search(text) is not None),
        CONTROL: _has_control(text),
        MARKUP: ("<" in text or "&" in text) and _TAG.search(text) is not None,
        TEMPLATE: ("{" in text or "%" in text) and _VARIABLE.search(text) is not None,
    }
    return [name for name, present in found.items() if present]


def _has_control(text: str) -> bool:
    if text.isprintable():
        return False
    return any(
        character in _INVISIBLE or (unicodedata.category(character) == "Cc" and character not in "\n\r\t")
        for character in text
        if not character.isprintable()
    )


def date_forms(text: str) -> list[str]:
    """The forms in which a text writes dates, each named by an example; empty for most texts."""
    if not any(map(str.isdigit, text)):
        return []
    return [name for name, pattern in _DATES.items() if pattern.search(text)]


def json_state(text: str) -> str | None:
    """`valid` or `broken` for a text that sets out to be a JSON object or list, else None."""
    bare = text.strip()
    if not re.match(r"\{\s*[\"}]|\[\s*[\[{\"\d\]]", bare):
        return None
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return "broken"
    return "valid"


def masked(text: str) -> str:
    """The outline of a text without its content: letters as x, digits as 9, cut after 48 characters."""
    outline = "".join(
        ("X" if character.isupper() else "x") if character.isalpha() else "9" if character.isdigit() else character
        for character in text[:_MASK_CHARS]
    )
    outline = re.sub(r"[^\S ]+", " ⏎ ", outline)
    return outline + ("…" if len(text) > _MASK_CHARS else "")
