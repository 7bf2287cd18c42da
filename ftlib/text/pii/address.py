"""Recognizers for postal addresses: street, unit, place, state, code, country, on one line or several.

An address starts at a core (a house number with a street word, a street word with a house number, a P.O. box, or a
number after words such as "my address is") and then grows over the parts that may follow one: unit, place, state,
postal code, country. Growing stops at the first part that is none of them, so that a sentence is not swallowed.
"""

import re
from collections.abc import Iterable, Iterator

from ftlib.text.pii.finding import Finding
from ftlib.text.pii.letters import ALPHABETIC, ANY_UP, compile_latin
from ftlib.text.pii.places import COUNTRIES, STATE_CODES, STATE_NAMES
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import ExpressionRecognizer, Rule, RuleRecognizer

# Street suffixes of USPS Publication 28, appendix C1, with their usual abbreviations, and a few of other countries.
_TYPES = (
    "alle[ey]|all?y|anex|annex|arcade|arc|avenue|ave?|avn?ue|bayou|beach|bch|bend|bnd|bluffs?|blfs?|bottom|btm|"
    "boulevard|"
    "blvd|boul|branch|bridge|brdge|brg|brooks?|burgs?|bypass|byp|camp|canyon|cyn|cape|causeway|cswy|centers?|"
    "centres?|ctr|"
    "circles?|circ?|cliffs?|clfs?|club|common|corners?|cors?|course|crse|courts?|cts?|coves?|cvs?|creek|crk|"
    "crescent|cres|"
    "crest|crossing|xing|crossroads?|curve|dale|dam|divide|dv|drives?|drs?|estates?|ests?|expressway|expy|extensions?|"
    "falls?|fls|ferry|fry|fields?|flds?|flats?|flts?|fords?|forests?|frst|forges?|forks?|frks?|fort|ft|freeway|fwy|"
    "gardens?|gdns?|gateway|gtwy|glens?|greens?|grns?|groves?|grvs?|harbou?rs?|haven|hvn|heights|hts|highway|hwy|"
    "hills?|"
    "hls?|hollow|holw|inlet|islands?|islnds?|isle|junctions?|jcts?|keys?|knolls?|knls?|lakes?|lks?|landing|lndg|"
    "lane|ln|"
    "lights?|loaf|locks?|lodge|loop|mall|manors?|mnrs?|meadows?|mdws?|mews|mills?|mls?|mission|motorway|mtwy|mount|mt|"
    "mountains?|mtns?|neck|nck|orchard|oval|overpass|parade|parks?|parkways?|pkwys?|pass|passage|path|pike|pines?|pnes|"
    "plains?|plns?|place|pl|plaza|plz|points?|pts?|ports?|prts?|prairie|pr|quay|radial|radl|ramp|ranch|rapids?|rpds|"
    "rest|"
    "ridges?|rdgs?|river|riv|roads?|rds?|route|rte|row|rue|run|shoals?|shls?|shores?|shrs?|skyway|springs?|spgs?|"
    "spurs?|"
    "squares?|sqs?|station|sta|stravenue|stra|streams?|strm|streets?|sts?|str|summit|smt|terrace|terr?|throughway|trwy|"
    "trace|trce|track|trak|trafficway|trails?|trls?|tunnel|tunl|turnpike|tpke|underpass|upas|unions?|valleys?|vlys?|"
    "viaduct|via|views?|vws?|villages?|vlgs?|ville|vista|vis|walks?|wall|ways?|wells?|wls|wharf|close|garth|gate|green|"
    "esplanade|circuit|cct|rise|vale"
)
# Words that are common nouns as well: taken for a street only when a capital stands before them.
_FIRST_TYPES = (
    r"via|viale|vicolo|piazza|corso|largo|strada|contrada|rue|avenue|allée|chemin|impasse|quai|place|boulevard|"
    r"route|calle|avenida|av\.|"
    r"paseo|camino|carrer|plaza|rúa|rua|travessa|praça|estrada|rodovia|alameda|ul\.|ulica|al\.|os\.|plac|ulice|ulitsa|"
    r"ulitza|bul\.|strada|str\.|şos\.|calea|bulevardul|jalan|jln\.?|c/|carretera|ronda|passeig"
)
_JOINED = (
    "straße|strasse|str\\.|straat|laan|plein|gracht|kade|dijk|singel|plaats|dreef|hof|gasse|allee|platz|ufer|damm|"
    "steig|"
    "steeg|vägen|väg|gatan|gata|gränd|torget|vej|vejen|gade|gården|stræde|allé|veien|vei|gaten|tie|katu|kuja|polku|"
    "utca|weg|stien|bakken|haugen|lia|toppen|svingen|straede|byvej|stræti|braut|götu|gerði"
)
_CUES = (
    r"(?:(?:mailing|billing|shipping|home|postal|street|new|current|delivery|business|office|residential|permanent|"
    r"his|her|my|our|their|[\w’']{1,40}s)\s)?"
    r"address(?:es)?(?:['\"]?\s?(?::|=|\bis\b|\bas\b|\bto\b|\bwas\b|\bat\b|\bfrom\b|\bwith\b|\bhas\schanged\sto\b)"
    r"(?:\sthe\ssame:)?\s*['\"]?|,?\s*\n+\s*)|"
    r"\b(?:liv(?:e|es|ed|ing)|resid(?:e|es|ed|ing)|locat(?:ed|ion\sis)|stay(?:ing)?|mov(?:e|ed|ing))\s(?:at|to|on|"
    r"in)\s|"
    r"\b(?:ship|deliver|mail|send|sent|delivered|shipped|mailed|forward|post)\s(?:(?:it|this|them|my|the|an?)\s)?"
    r"(?:\w+\s)?to\s|"
    r"\b(?:our\sstore|offices?|house|home|property|residence|branch|store|shop|location)\s(?:is\s|are\s)?"
    r"(?:located\s)?(?:at|on|in)\s"
)
_UP = f"[{ANY_UP}]"
_REST = f"0-9_{ALPHABETIC}.'-"
# Words are bounded: an address has none of hundreds of letters, and a hostile one would take quadratic time.
_WORD = rf"[{ALPHABETIC}][{_REST}]{{0,40}}"
_CAP_WORD = rf"{_UP}[{_REST}]{{0,40}}"
_NUMBER = r"(?:\d{1,6}[A-Za-z]?(?:[-/]\d{1,5}[A-Za-z]?)?)"
_UNIT = (
    r"(?:apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|building|bldg|block|lot|trailer|dept|penthouse|ph|apto|"
    r"depto|piso|p\.?\s?o\.?\s?box|box)\b\.?\s{0,2}\#?\s?(?=[\w-]*\d|[A-Za-z]\b)[A-Za-z0-9_-]{1,6}(?!\w)|\#\s?\d{1,6}(?!\w)"
)
_POSTAL = (
    r"(?:[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}|[A-Z]\d[A-Z]\s?\d[A-Z]\d|\d{5}-\d{3,4}|(?:[A-Z]{1,3}-)?\d{4,6}|"
    r"\d{3}\s\d{2}|\d{4}\s?[A-Z]{2}|\d{2}-\d{3})(?![\w-])"
)
_STOP = (
    r"for|and|or|is|was|are|please|thanks?|thank|i|my|we|our|the|a|an|in|on|with|from|by|that|this|it|as|but|at|"
    r"have|has|"
    r"can|could|would|will|because|so|since|until|when|while|he|she|they|you|your|not|if|dear|hi|hello|regards|phone|"
    r"email|tel|fax|before|after|instead|about|now|also|still|again|to|ordered|order|customer|account|best|sincerely"
)
_BLANK = r"(?:[ \t]*\n[>?|*#\t -]{1,6}|\s*[,;]\s*\n?\s*|\s*\\n\s*|[ \t]*\n[ \t]*,?[ \t]*|[ \t]+-[ \t]+|[ \t]+)"


def _cores(flags: int, word: str) -> list[tuple[re.Pattern[str], float]]:
    """Expressions with their score."""
    direction = r"(?:(?:[NSEW]{1,2}\.?|North|South|East|West|Northeast|Northwest|Southeast|Southwest)\s+)?"
    stop = rf"(?!(?:{_STOP})\b)"
    name = rf"(?:(?:{stop}{word}|\d{{1,3}}(?:st|nd|rd|th))\s+){{1,4}}?"
    english = (
        rf"(?<![\w.$€£/-])(?:\d{{1,4}}\s+)?(?:{_NUMBER}(?:\s+1/2)?[,]?\s+){direction}{name}(?i:{_TYPES})(?!\w)\.?"
        rf"(?:\s+[NSEW]{{1,2}}\b\.?)?(?:\s+\d{{1,4}}[A-Za-z]?(?!\w))?"
    )
    first = (
        rf"(?:(?<![\w.$-]){_NUMBER},?\s+)?(?<![\w])(?i:{_FIRST_TYPES})\s+(?:{stop}[{_REST}]+\s+){{0,4}}?"
        rf"(?:{stop}{word},?\s+{_NUMBER}(?!\w)|\d{{1,4}}(?!\w))"
    )
    numbered_first = rf"(?<![\w.$-]){_NUMBER},?\s+(?i:{_FIRST_TYPES})\s+(?:{stop}{word}(?:\s+|$)){{1,4}}"
    joined = (
        rf"(?:(?<![\w.$-]){_NUMBER}\s+)?(?:{stop}{word}\s+){{0,2}}[{ALPHABETIC}][{_REST}]{{0,40}}(?i:{_JOINED})\s+{_NUMBER}(?!\w)|"
        rf"(?<![\w.$-]){_NUMBER}\s+(?:{stop}{word}\s+){{0,2}}[{ALPHABETIC}][{_REST}]{{1,40}}(?i:{_JOINED})(?!\w)(?:\s+\d{{1,4}}(?!\w))?"
    )
    box = r"(?i:\bp\.?\s?o\.?\s?box\s+\d{1,8}(?!\w)|\bpost\soffice\sbox\s+\d{1,8}(?!\w))"
    military = r"(?i:\b(?:PSC|Unit|CMR)\s\d{1,5},?\s(?:Box|Bx)\s\d{1,5}(?!\w))"
    post = r"(?i:\b(?:(?:USS|USNS|USNV|USCGC)\s\w+\s*,?\s*)?\b(?:APO|FPO|DPO)\s(?:AA|AE|AP)\s\d{5}(?!\w))"
    corner = rf"(?i:\b(?:the\s)?corner\sof\s)(?:[\w.'’-]+\s){{1,6}}?(?i:and)\s(?:{stop}{word}\s?){{1,4}}"
    bracketed = (
        rf"(?<![\w.$€£/:,-])\d{{1,4}}\s+(?:{stop}(?=\w{{3}}|[^\W\d_]\.){word}\s+){{1,4}}\d{{1,4}}[A-Za-z]?(?!\w)(?=\s*"
        rf"(?:,|\n|$|"
        rf"[.;?!)]|(?i:{_UNIT})))"
    )
    after_place = rf"(?i:\b(?:at|in|to|near|corner\sof|from)\s)(?P<v>(?!\#)(?:{_UNIT}))"
    cued = rf"(?i:{_CUES})(?P<v>(?:{_NUMBER},?\s+{stop}{word}|(?:{_UNIT}))(?:\s+{stop}(?:{word}|\d{{1,5}}))*)"
    return [
        (compile_latin(english, flags), 0.85),
        (compile_latin(first, flags), 0.75),
        (compile_latin(numbered_first, flags), 0.75),
        (compile_latin(joined, flags), 0.75),
        (compile_latin(box, flags), 0.9),
        (compile_latin(military), 0.85),
        (compile_latin(post), 0.85),
        (compile_latin(corner, flags), 0.7),
        (compile_latin(bracketed, flags), 0.55),
        (compile_latin(after_place, flags), 0.6),
        (compile_latin(cued, flags), 0.7),
    ]


def _part(word: str, flags: int) -> re.Pattern[str]:
    """One part that may follow: unit, code, state, country, or a place before one of these or a line's end."""
    ending = rf"(?=\s*(?:[,.;?!)\"'\\]|\n|$)|\s+(?:{STATE_CODES}|{_POSTAL}|(?i:{COUNTRIES}|{STATE_NAMES}))(?!\w))"
    known = rf"(?i:{_UNIT})|(?:{_POSTAL})|(?:{STATE_CODES})(?!\w)|(?i:{STATE_NAMES}|{COUNTRIES})(?!\w)"
    place = (
        rf"(?!(?i:{_STOP})\b){word}(?:\s+(?!(?i:{_STOP})\b)(?:{word}|(?i:de|la|del|di|da|do|dos|van|von|le|les|sur|"
        rf"of|an\s+der|am)\b)){{0,4}}{ending}"
    )
    return compile_latin(rf"{_BLANK}(?:{known})|{_BLANK}{place}", flags)


class AddressRecognizer(ExpressionRecognizer):
    """Postal addresses. Texts without a capital letter are read with case ignored; those without a digit hold none."""

    def __init__(self, language: str = "en") -> None:
        cased, uncased = _cores(0, _CAP_WORD), _cores(re.IGNORECASE, _WORD)
        self._num_cased = len(cased)
        self._scores = [score for _, score in (*cased, *uncased)]
        self._parts = _part(_CAP_WORD, 0), _part(_WORD, re.IGNORECASE)
        super().__init__(
            "AddressRecognizer", [("STREET_ADDRESS", pattern) for pattern, _ in (*cased, *uncased)], language
        )

    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """Whole addresses."""
        if not _DIGIT.search(text):
            return
        uncased = text == text.lower()
        for number in numbers:
            if (number >= self._num_cased) is not uncased:
                continue
            _, pattern = self.expressions[number]
            group = "v" if "v" in pattern.groupindex else 0
            for match in pattern.finditer(text):
                start, end = match.span(group)
                yield Finding(start, _grow(text, end, self._parts[uncased]), "STREET_ADDRESS", self._scores[number])


_DIGIT = re.compile(r"\d")


def _grow(text: str, end: int, part: re.Pattern[str], limit: int = 8) -> int:
    for _ in range(limit):
        match = part.match(text, end)
        if match is None or match.end() == end:
            break
        end = match.end()
    while text[end - 1] in " \t\n,;":
        end -= 1
    return end


def _code_rules() -> list[Rule]:
    state_zip = (
        rf"(?<![\w-])(?:(?:{_CAP_WORD}\s+){{0,3}}{_CAP_WORD},\s+)?(?:{STATE_CODES})\.?,?\s+\d{{5}}(?:-\d{{4}})?"
        rf"(?![\w-])"
    )
    labelled = (
        r"(?i:\b(?:zip|postal|post|area)[\s-]?(?:code|number)?|\bpostcode)(?:['\"]?\s{0,2}(?:\bis\b|\bto\b|:|"
        r"=)\s{0,2}['\"]?|\s)(?P<v>(?=[A-Za-z -]*\d)[A-Za-z0-9][A-Za-z0-9 -]{2,8}[A-Za-z0-9])(?!\w)"
    )
    country_code = rf"\b(?:{COUNTRIES}),?\s+(?P<v>\d{{4,6}})(?![\w-])"
    british = r"(?<![\w-])[A-Z]{1,2}\d[A-Z\d]?\s\d[ABD-HJLNP-UW-Z]{2}(?![\w-])"
    canadian = r"(?<![\w-])[ABCEGHJ-NPRSTVXY]\d[A-Z]\s\d[A-Z]\d(?![\w-])"
    nine = r"(?<![\w.$-])\d{5}-\d{4}(?![\w-])"
    unit = r"(?<![\w-])(?i:apt|apartment|suite|ste|flat)\b\.?\s{1,2}\#?\d{1,5}[A-Za-z]?(?!\w)"
    return [
        Rule("ZIP_CODE", compile_latin(state_zip), 0.8),
        Rule("ZIP_CODE", compile_latin(labelled), 0.85),
        Rule(
            "ZIP_CODE",
            compile_latin(country_code, re.IGNORECASE),
            0.65,
        ),
        Rule("ZIP_CODE", compile_latin(british), 0.75),
        Rule("ZIP_CODE", compile_latin(canadian), 0.75),
        Rule("ZIP_CODE", compile_latin(nine), 0.6),
        Rule(
            "STREET_ADDRESS",
            compile_latin(unit),
            0.6,
        ),
    ]


def address_recognizers(language: str) -> list[LocalRecognizer]:
    """Postal addresses and codes."""
    return [AddressRecognizer(language), RuleRecognizer("PostalCodeRecognizer", _code_rules(), language)]
