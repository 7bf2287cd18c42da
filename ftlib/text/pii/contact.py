"""Recognizers for e-mail, web and network addresses and telephone numbers."""

import ipaddress
import re
from collections.abc import Sequence

from ftlib.text.pii.letters import LATIN, WORD
from ftlib.text.pii.phones import PhoneLibraryRecognizer
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import Rule, RuleRecognizer, compile_rule, digits_between, num_digits

_GENERIC_TLD = "com|org|net|edu|gov|mil|int|info|biz|app|dev|io|co|cloud|online|shop|site|tech|health|law|bank"
_URL_REST = (
    r"(?:[^\s<>\"'`\]|\x80-\U0010ffff]|(?<=[/=_\#?&+-])[^\x00-\x7f]{1,64})*"
    r"[^\s<>\"'`\]|.,;:!?)}\x80-\U0010ffff]"
)
"""Text of another script right behind an address is not part of it, but a part of a path may be in one."""
_EXTENSION = r"(?:\s?(?:x|ext\.?|extension)\s?\d{1,6})?"


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_interface(value)
    except ValueError:
        return False
    return True


def _in_snake_case(match: re.Match[str]) -> bool:
    """Whether an underscore joins a match to a word."""
    text, start, end = match.string, match.start(), match.end()
    return bool(_JOINED_BEFORE.search(text, max(0, start - 2), start) or _JOINED_BEHIND.match(text, end))


_JOINED_BEFORE, _JOINED_BEHIND = re.compile(r"[A-Za-z0-9]_\Z"), re.compile(r"_[A-Za-z0-9]")
_PRIVATE_NETWORK = re.compile(r"(?:10|127|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.")


def _no_version(match: re.Match[str]) -> bool:
    """In a name (`host_203.0.113.77_log`) small numbers are a version, as in `libssl_1.1.0.2_amd64`."""
    if not _in_snake_case(match) or _PRIVATE_NETWORK.match(match[0]):
        return True
    first, *others = match[0].split("/")[0].split(".")
    return len(first) > 1 and any(len(part) > 1 for part in others)


def _no_name(match: re.Match[str]) -> bool:
    """In a name, words of the letters a to f with colons are code, as in `my_face::add`."""
    return not _in_snake_case(match) or (match[0].count(":") > 2 and any(map(str.isdigit, match[0])))


def _network_rules() -> list[Rule]:
    email = r"(?<![\w.+%-]) [\w.+%'&-]{1,64} (?:@|%40) (?:[\w-]{1,63}\.)+ [^\W\d_][\w-]{1,23} (?![\w-])"
    accented = (
        rf"(?<![.+%-]) [{WORD}.+%'&-]{{1,64}} @ (?:[{WORD}-]{{1,63}}\.)+ [{LATIN}][{WORD}-]{{1,23}} (?![{WORD}-])"
    )
    foreign = r"(?<!\w) [^\W\x00-\x7f][^\W\x00-\x7f.-]{0,63} @ (?:[^\W\x00-\x7f-]{1,63}\.)+ [^\W\x00-\x7f]{2,24} (?!\w)"
    spelled = r"[\w.+-]{1,64} \s?[\[(]\s?at\s?[\])]\s? [\w-]+ (?:(?:\s?[\[(]\s?dot\s?[\])]\s?|\.) \w+)+"
    schemes = "https?|s?ftps?|ssh|wss?|ldaps?|s3|gs|git|postgres(?:ql)?|mysql|mongodb(?:\\+srv)?|rediss?|amqps?|smb"
    url = rf"(?<![a-z])(?:jdbc:\w+|{schemes})://{_URL_REST}"
    bare = rf"(?<![\w@./-]) (?:www\.[\w-]+(?:\.[\w-]+)+ | (?:[a-z0-9-]+\.)+(?:{_GENERIC_TLD})(?![\w.-]*\w) )"
    ipv4 = r"(?<![A-Za-z0-9.-])(?<!version\ )(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,2})?(?![A-Za-z0-9-]|\.\d)"
    ipv6 = (
        r"(?<![A-Za-z0-9:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:(?:\d{1,3}\.){3}\d{1,3})?(?:/\d{1,3})?"
        r"(?![A-Za-z0-9:])"
    )
    mac = (
        r"(?<![A-Za-z0-9:-])(?:[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4})"
        r"(?![A-Za-z0-9:-])"
    )
    return [
        Rule("EMAIL_ADDRESS", compile_rule(email), 1.0),
        Rule("EMAIL_ADDRESS", compile_rule(accented, re.IGNORECASE), 1.0),
        Rule("EMAIL_ADDRESS", compile_rule(foreign, re.IGNORECASE), 0.8),
        Rule("EMAIL_ADDRESS", compile_rule(spelled), 0.8),
        Rule("URL", compile_rule(url), 0.95),
        Rule("URL", compile_rule(bare + f"(?:/{_URL_REST})?"), 0.7),
        Rule("IP_ADDRESS", compile_rule(ipv4), 0.95, accept=_is_ip, where=_no_version),
        Rule("IP_ADDRESS", compile_rule(ipv6), 0.95, accept=lambda v: len(v) > 3 and _is_ip(v), where=_no_name),
        Rule("MAC_ADDRESS", compile_rule(mac), 0.98),
    ]


def _is_national(value: str) -> bool:
    """Eight to fifteen digits that are no hours from and to (`0700-1900`)."""
    return 8 <= num_digits(value) <= 15 and not _HOURS.fullmatch(value)


_HOURS = re.compile(r"(?:[01]\d|2[0-3])[0-5]\d\s?[-/]\s?(?:[01]\d|2[0-4])[0-5]\d")


def _phone_rules() -> list[Rule]:
    international = (
        rf"(?<![A-Za-z0-9+])(?:\+|00)\d{{1,3}}(?:[\s./-]?\(0?\d{{1,4}}\))?(?:[\s./-]{{0,2}}\d{{1,5}}){{2,6}}{_EXTENSION}"
        rf"(?![A-Za-z0-9])"
    )
    nanp = (
        rf"(?<![A-Za-z0-9.+-])(?:1[\s.-])?(?:\(\d{{3}}\)[\s.-]?|\d{{3}}[.-]|\d{{3}}\s)\d{{3}}[\s.-]\d{{4}}{_EXTENSION}"
        rf"(?![A-Za-z0-9]|-\d)"
    )
    national = (
        rf"(?<![\w.,+/-])(?:\(0?\d{{1,4}}\)[\s./-]?\d{{2,4}}|0\d{{1,4}}[\s/-]\d{{2,4}})"
        rf"(?:[\s./-]?\d{{2,6}}){{1,4}}{_EXTENSION}(?!\w|-\d)"
    )
    pairs = r"(?<![\w.,+/:-])\d{2}([- .])\d{2}(?:\1\d{2}){2,3}(?!\w|[-.]\d)"
    kind = (
        rf"(?<![\w.,+/-])(?P<v>\+?\(?\d[\d ()./-]{{4,18}}\d{_EXTENSION})[ ]?[-–(]{{0,2}}[ ]?(?:office|fax|home|"
        rf"mobile|cell|work|tel)\b"
    )
    cue = (
        r"phone|telephone|tel|mobile|cell|cellular|fax|whatsapp|call(?:\s(?:me|us|him|her|them|back))?|reach(?:ed)?|"
        r"dial|text|sms|ring|contact|hotline|answering|answer"
    )
    cued = (
        rf"\b(?:{cue})(?:\s(?:number|no\.?|num|phone|line))?(?:[\s:=#.,(\"']|\bis\b|\bat\b|\bon\b|\bme\b|\bus\b|"
        rf"\bto\b){{1,8}}(?P<v>\+?\(?\d[\d\s()./-]{{4,20}}\d{_EXTENSION})(?!\w)"
    )
    flags = re.IGNORECASE | re.ASCII
    return [
        Rule(
            "PHONE_NUMBER",
            re.compile(international, flags),
            0.85,
            accept=digits_between(8, 20),
        ),
        Rule("PHONE_NUMBER", re.compile(nanp, flags), 0.85),
        Rule("PHONE_NUMBER", re.compile(national, flags), 0.6, accept=_is_national),
        Rule("PHONE_NUMBER", re.compile(pairs, flags), 0.55),
        Rule(
            "PHONE_NUMBER",
            re.compile(kind, flags),
            0.7,
            accept=digits_between(6, 16),
        ),
        Rule("PHONE_NUMBER", re.compile(cued, flags), 0.8, accept=digits_between(6, 16)),
    ]


def contact_recognizers(language: str, regions: Sequence[str]) -> list[LocalRecognizer]:
    """E-mail, URL, IP, MAC and telephone; `regions`: countries whose national numbers are looked for in every text."""
    return [
        RuleRecognizer("NetworkAddressRecognizer", _network_rules(), language),
        RuleRecognizer("PhoneFormatRecognizer", _phone_rules(), language),
        PhoneLibraryRecognizer(language, regions),
    ]
