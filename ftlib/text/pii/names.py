"""Recognizers for people, organisations and countries by the words around or inside a name.

They need no NER pipeline, and catch what small pipelines miss: a name after a title, a label, a greeting or a
sign-off, an organisation by its legal form.
"""

import re
from collections.abc import Iterator
from typing import Any

from ftlib.text.pii.given_names import AMBIGUOUS, COMMON, NOT_SURNAMES
from ftlib.text.pii.labels import NAME_LABELS
from ftlib.text.pii.letters import ANY_UP, LATIN, LATIN_UP, compile_latin, one_script
from ftlib.text.pii.places import COUNTRIES
from ftlib.text.pii.presidio import LocalRecognizer, RecognizerResult
from ftlib.text.pii.rules import Rule, RuleRecognizer, result
from ftlib.text.pii.terms import is_generic, is_term

_UP = f"[{ANY_UP}]"
_LATIN_NAME = rf"(?:[{LATIN_UP}][{LATIN}]*(?:(?:-|'(?!s\b))[{LATIN}]+)*|[{LATIN_UP}]\.)"
_NAME = one_script(r"(?:{up}{any}*(?:(?:-|'(?!s\b)){any}+)*|{up}\.)")
PARTICLE = r"(?:(?:van|von|de|der|den|del|della|di|da|dos|la|le|bin|ibn|al|el|ter|ten|af|av|y)[ ])"
FULL = rf"{_NAME}(?:[ ]{PARTICLE}{{0,2}}{_NAME}){{0,3}}"
_TWO = rf"{_NAME}(?:[ ]{PARTICLE}{{0,2}}{_NAME}){{1,3}}"
OTHER = r"[^\x00-\u036f]"
"""A letter of another script right behind a name."""
_TITLE = (
    r"(?:Mr|Mrs|Ms|Miss|Mx|Messrs|Mister|Madam|Dr|Doctor|Prof|Professor|Sir|Dame|Lady|Lord|Rev|Reverend|Fr|Judge|"
    r"Justice|Hon|Capt|Captain|Sgt|Sergeant|Lt|Lieutenant|Col|Colonel|Gen|General|Officer|Detective|Nurse|Attorney|"
    r"Senator)"
)
_LABEL = (
    r"(?:(?:full|first|last|family|given|middle|maiden|legal|display|contact|customer|patient|client|account[ ]?holder|"
    r"card[ ]?holder|employee|member|user|insured|beneficiary|guardian|applicant|emergency[ ]contact)[ _-]?)?name|"
    r"patient|client|attending|physician|provider|surgeon|nurse|therapist|contact|cardholder|account[ ]holder|"
    r"caller|claimant|plaintiff|defendant|attorney|counsel|"
    r"(?:signed|prepared|reviewed|approved|created|submitted|authored|written|reported|assigned|requested|ordered|"
    r"dictated|witnessed)[ _]?(?:by|to)|author|assignee|owner|attn|attention|c/o|cc|from|to|user|employee|manager|"
    r"spouse|next[ ]of[ ]kin|nok|guardian|reviewer|maintainer|signed|sincerely"
)
_NAME_KEY = (
    r"(?:(?!(?:file|folder|class|host|tag|branch|user|product|brand|generic|drug|server|device|table|column|field|key|"
    r"event|project|package|module|function|method|variable|domain|service|company|image|cluster|group|role|plan|"
    r"display|screen|type|template|model|font|color|colour|job|path|test|database|db|app|application)[ _-])"
    r"\w{1,30}[ _-]|(?:first|last|given|family|middle|maiden|sur|fore|full|legal|contact|customer|patient|client|"
    r"employee|member|guardian|applicant|holder|owner|author|agent|sender|recipient|payee|payer|beneficiary|caller|guest|"
    r"student|teacher|doctor|passenger|driver|spouse|parent|child|manager|assignee))?name"
)
NOT_NAMES = (
    r"(?!(?:The|This|That|These|Those|My|Your|Our|Their|It|Its|We|You|He|She|They|I|A|An|And|Or|But|If|In|On|At|To|"
    r"For|Of|With|From|By|As|Is|Are|Was|Were|Please|Thank|Thanks|Dear|Hi|Hello|Hey|Support|Team|Customer|Service|"
    r"Sir|Madam|All|Everyone|There|Folks|Date|Phone|Email|Address|Unknown|None|Null|True|False|N|Help|Re|Best|Kind|"
    r"Warm|Regards|Sincerely|Yours|Cheers|Many|No|Not|Yes|Can|Could|Would|How|What|When|Where|Why|Who|Just|Since|"
    r"After|Before|Now|Also|Still|Account|Order|Billing|Technical|Number|Id|ID)\b)"
)
_GREETING = r"(?:[Dd]ear|[Hh]i|[Hh]ello|[Hh]ey|[Gg]ood\s(?:morning|afternoon|evening)|[Gg]reetings|HI|HELLO|DEAR)"
_CLOSING = (
    r"(?:(?:[Kk]ind|[Bb]est|[Ww]arm(?:est)?|[Mm]any)\s)?(?:[Rr]egards|[Tt]hanks(?:\sin\sadvance|\sagain|\sa\slot|"
    r"\sso\smuch)?|[Tt]hank\syou(?:\sin\sadvance|\sso\smuch|\svery\smuch)?|[Ss]incerely(?:\syours)?|[Cc]heers|"
    r"[Yy]ours(?:\s(?:truly|sincerely|faithfully))?|[Bb]est(?:\swishes)?|[Rr]espectfully|[Ww]ishes)"
)
_SELF = (
    r"(?:[Mm]y\s(?:full\s|legal\s)?name(?:\sis|['’]s)|[Nn]ame['’]s|[Cc]all\sme|I\sam\scalled|[Nn]amed|[Kk]nown\sas|"
    r"on\sbehalf\sof|in\sthe\sname\sof|(?:under|registered\sto|belongs\sto|issued\sto|(?:partner|wife|husband|son|"
    r"daughter|mother|father|brother|sister|friend|colleague|boss|manager|landlord|tenant|doctor|"
    r"assistant)['’]?s?,?(?:\sname)?(?:\sis)?))"
)
_GAELIC = rf"(?:(?:O|D)'{_UP}[{LATIN}]+|M[Cc]{_UP}[{LATIN}]{{2,}}|Fitz{_UP}?[{LATIN}]{{3,}})"
_LEGAL_FORM = (
    r"(?:Inc|Ltd|LLC|LLP|Corp|Corporation|Co|PLC|plc|GmbH|AG|S\.?A\.?|S\.?r\.?l\.?|B\.?V\.?|N\.?V\.?|AB|ApS|Oy|Pty|"
    r"Limited|Incorporated|Company|Group|Holdings?|Partners|Associates|Industries|Enterprises|Solutions|Systems|"
    r"Technologies|Labs?|Bank|University|College|Hospital|Clinic|Institute|Foundation|Insurance|Pharmacy|Consulting|"
    r"Ventures|Capital|Logistics|Motors|Airlines|Pharmaceuticals|Laborator(?:y|ies))"
)
_COMPANY = (
    rf"(?<![\w.@])(?:{_UP}[\w&'’-]{{0,40}}(?:\.[\w&]+)*[ ,]{{1,2}}"
    r"(?:(?:and|&|of)[ ])?"
    rf"){{1,4}}{_LEGAL_FORM}\b\.?"
)
_LOWER_COMPANY = r"\b(?P<v>(?:[a-z][\w&'’-]{0,40},?[ ]){1,3}(?:inc|ltd|llc|llp|corp|gmbh|plc|pty)\b\.?)"
_EMPLOYER = (
    r"(?i:\b(?:works?|working|worked|employed|interned?)[ ](?:at|for|by)|"
    r"\b(?:job|position|role|engineer|developer|manager|analyst|director|"
    r"accountant|scientist|consultant|administrator|architect|designer|officer|specialist|coordinator|engineering|"
    r"sales|"
    r"marketing|operations|president|ceo|cto|cfo|founder|employee|attorney|counsel|partner|assistant)[ ](?:at|for|"
    r"by|with|of)"
    r"|\b(?:employer|company|firm|organi[sz]ation|vendor)(?:[ ]name)?[ ]?[:=]|\b(?:assistant|agent|bot)[ ]for)"
    rf"[ ][\"']?(?P<v>(?!(?:The|My|Our|A|An|This|Least|Home|Work|Once|Night|Day|Us|Me|You|Monday|Tuesday|Wednesday|"
    rf"Thursday|Friday|Saturday|Sunday|January|February|March|April|May|June|July|August|September|October|November|"
    rf"December)\b){_UP}[\w&'’-]{{0,40}}(?:[ ](?:(?:of|and|&)[ ])?{_UP}[\w&'’-]{{0,40}}){{0,3}})"
)
_OFFICE = (
    rf"\b[Tt]he[ ](?P<v>{NOT_NAMES}(?!(?:Main|New|Local|Head|Post|Regional|Front|Back|Home)\b){_UP}[\w&'’-]{{0,40}}"
    rf"(?:[ ](?:(?:of|and|&)[ ])?[\w&'’-]+){{0,4}}?)[ ](?:head)?(?:office|headquarters|branch|store)\b"
)
_WHEREABOUTS = (
    r"(?i:\b(?:liv(?:e|es|ed|ing)[ ](?:in|near)|moved(?:[ ]\w+)?[ ](?:from|to)|grew[ ]up[ ]in|raised[ ]in|born[ ]"
    r"(?:and[ ]raised[ ])?in|"
    r"based[ ]in|located[ ]in|trip[ ]to|travel(?:l?ing|l?ed)?[ ]to|fl(?:ew|ying)[ ](?:to|from)|arrived[ ](?:at|in)|"
    r"(?-i:[Vv]isit)(?:ed|ing)?|"
    r"i(?:['’]m|[ ]am)[ ]in|city[ ]of|town[ ]of|native[ ]of|resid(?:es?|ed|ing)[ ]in))"
    rf"[ ](?P<v>{NOT_NAMES}(?=\w{{4}}){_UP}[\w'’-]+(?:[ ](?:(?:de|la|del|di|da|do|nad|am|of|upon|"
    rf"sur)[ ]){{0,2}}{_UP}[\w'’-]+){{0,4}})"
)


def _names_one(value: str) -> bool:
    """More than the kind of an institution or a department: `General Surgery` is no officer."""
    return not is_generic(value)


def _no_term(value: str) -> bool:
    """Not a word of documents: `attorney of record`."""
    return not is_term(value)


class GivenNameRecognizer(LocalRecognizer):  # type: ignore[misc]
    """Capitalised words that begin with a common given name: `Emily Rodriguez`, `Judy`."""

    def __init__(self, language: str = "en") -> None:
        # A capital behind an accented small letter begins a word, too: damaged text and identifiers join words so.
        edge = r"(?:(?<![\w.@/\\-])|(?<=[à-öø-ÿ])(?=[A-Z][a-z]))"
        self._word = compile_latin(rf"{edge}{_UP}[{LATIN}]+(?:-{_UP}[{LATIN}]+)?")
        self._surnames = compile_latin(
            rf"((?:[ ]{PARTICLE}{{0,2}}{_LATIN_NAME}|[ ]{_UP}\.(?=[ ,;)\n]|$)){{0,3}})(?![\w@])"
        )
        super().__init__(supported_entities=["PERSON"], name="GivenNameRecognizer", supported_language=language)

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        """A common name alone is found at 0.6, with a further name at 0.8; an ambiguous one only with a further one.

        Every capitalised word is tried: one before a name (`Yesterday Maria Gonzalez`) must not swallow it.
        """
        if text == text.lower():
            return [result(self, "PERSON", start, end, 0.6) for start, end in self._uncased(text)]
        found = []
        for match in self._word.finditer(text):
            first = match[0].lower().split("-")[0]
            if first not in COMMON and first not in AMBIGUOUS:
                continue
            surnames = self._surnames.match(text, match.end())
            if surnames is None:
                continue
            further = bool(surnames[1]) and not _STOP_AFTER.match(surnames[1].strip())
            if first in AMBIGUOUS and surnames[1].split()[:1] and surnames[1].split()[0].lower() in NOT_SURNAMES:
                continue
            end = match.end() if not further else self._end(text, match, surnames)
            if first in COMMON:
                found.append(result(self, "PERSON", match.start(), end, 0.8 if further else 0.6))
            elif further:
                found.append(result(self, "PERSON", match.start(), end, 0.65))
        return found

    @staticmethod
    def _end(text: str, first: re.Match[str], surnames: re.Match[str]) -> int:
        """Where a name ends: in a line of capitals one surname is taken, as the words behind it have capitals, too."""
        if not (first[0].isupper() and surnames[1].isupper()):
            return surnames.end()
        one = re.compile(rf"[ ]{PARTICLE}{{0,2}}{_LATIN_NAME}", re.IGNORECASE).match(text, first.end())
        return one.end() if one else surnames.end()

    def _uncased(self, text: str) -> Iterator[tuple[int, int]]:
        """Names in a text without capitals, with the next word unless that is a function word."""
        for match in re.finditer(r"(?<![\w.@/-])([^\W\d_]{3,})(?:[ ]([^\W\d_]{3,}))?(?![\w@])", text):
            if match[1] in COMMON:
                yield match.start(), match.end(1 if match[2] is None or match[2] in _FUNCTION_WORDS else 2)


# What may follow a name in a sentence and is no name itself.
_FUNCTION_WORDS = frozenset(
    """
and or but is was has had have will would can could should does did said says told asked from with who that which
the for not just been are were his her their our your this there here when where while into onto over under about
after before because very really still also then than some any all wrote writes went goes came comes got gets gave
gives took takes made makes called calls sent sends lives lived works worked spent shouted granted
""".split()  # noqa: SIM905
)
_STOP_AFTER = re.compile(NOT_NAMES.replace("(?!", "(?:", 1), re.IGNORECASE)


def _signs_off(match: re.Match[str]) -> bool:
    """Whether a line with a dash is the last one and the only such line: others are items of a list."""
    text = match.string
    if text[match.end() :].strip() or len(_DASH_LINE.findall(text)) > 1:
        return False
    return not text[: match.start()].rstrip().endswith((":", ","))


_DASH_LINE = re.compile(r"(?m)^[ \t]*[-*~+][ ]*\S")


def _rules() -> list[Rule]:
    def person(pattern: str, score: float) -> Rule:
        return Rule("PERSON", compile_latin(pattern), score)

    titled = rf"(?<!\w){_TITLE}\b\.?[ ]{NOT_NAMES}{FULL}(?:,?[ ](?:Jr|Sr|II|III|MD|PhD|Esq|RN|DO)\b\.?)?"
    full, two = rf"(?P<v>{NOT_NAMES}{FULL})", rf"(?P<v>{NOT_NAMES}{_TWO})"
    return [
        Rule("PERSON", compile_latin(titled), 0.85, accept=_names_one),
        person(r"(?<![\w@.])(?:mr|mrs|ms|miss|dr)\b\.?[ ][a-zà-ÿ'’-]{2,20}", 0.6),
        person(rf"(?<!\w)(?i:{_LABEL})['\"]?[ ]?(?:[:=]|=>)[ ]?['\"]?{two}(?!\w)", 0.8),
        person(rf"(?<!\w)(?i:{_NAME_KEY}|patient|attn)['\"]?[ ]?[:=][ ]?['\"]?{full}(?=['\"\s,;.|}})]|$|{OTHER})", 0.7),
        person(rf"(?<!\w)(?i:{NAME_LABELS})['\"]?[ ]{{0,2}}[:=][ ]?['\"]?{full}(?=['\"\s,;.|}})]|$|{OTHER})", 0.7),
        person(rf"(?:^|[\n.!?\"'(][ ]*|{OTHER}){_GREETING},?[ ]{full}(?=[ ]*(?:[,!.:;\n-]|$)|{OTHER})", 0.75),
        person(rf"(?<!\w){_CLOSING}[ ]*[,.!-]?[ ]*\n+[ ]*[-–—~]*[ ]*{full}(?=[ ]*(?:[\n,.|(]|$)|{OTHER})", 0.8),
        person(rf"(?<!\w){_CLOSING}[ ]*[,!.–—-]+[ ]*{full}[ ]*\.?[ ]*(?=\n|$)", 0.75),
        Rule("PERSON", re.compile(rf"(?:^|\n|[.!?] ) *[-~]{{1,2}} ?{full} *(?=\n|$)"), 0.6, where=_signs_off),
        person(rf"(?<![\w.@/\\-])(?P<v>{NOT_NAMES}{_UP}[{LATIN}]+[ ](?:{_UP}\.[ ])?{_GAELIC})(?!\w)", 0.65),
        person(rf"(?<!\w){_SELF}[ ]{full}", 0.75),
        person(rf"(?:\bI['’]?m|\bI\sam|\b[Tt]his\sis|\bit['’]s|\bhere\sis)[ ]{two}", 0.6),
        person(rf"(?m)^[ ]*(?P<v>{NOT_NAMES}{_TWO})(?=[ ]?[(<][^)>\n]{{0,40}}@)", 0.8),
        person(rf"(?m)^[ \t]*{full}:[ ]?\\\\?[\"“]", 0.7),
        person(rf"(?:\b(?:said|says|asked|asks|replied|shouted|wrote|told|yelled)[ ]){full}", 0.65),
        person(
            rf"(?<![\w-]){full}(?:,)?[ ](?:said|says|asked|asks|replied|shouted|wrote|writes|yelled|told[ ](?:me|us|"
            rf"him|her|them))\b",
            0.65,
        ),
        Rule("ORGANIZATION", compile_latin(_COMPANY), 0.7, accept=_names_one),
        Rule("ORGANIZATION", compile_latin(_LOWER_COMPANY), 0.6),
        Rule("ORGANIZATION", compile_latin(_EMPLOYER), 0.6, accept=_no_term),
        Rule("ORGANIZATION", compile_latin(_OFFICE), 0.6),
        Rule("LOCATION", compile_latin(_WHEREABOUTS), 0.6, accept=_no_term),
        Rule("LOCATION", compile_latin(rf"(?<![\w-])(?:{COUNTRIES})(?![\w-])"), 0.6),
        Rule(
            "LOCATION",
            compile_latin(
                rf"\b(?:from|in|to|at|of|visit|near)[ ](?:the[ ])?(?P<v>{COUNTRIES})(?![\w-])", re.IGNORECASE
            ),
            0.6,
        ),
    ]


def name_recognizers(language: str) -> list[LocalRecognizer]:
    """People, organisations and countries by cue."""
    return [RuleRecognizer("NameCueRecognizer", _rules(), language), GivenNameRecognizer(language)]
