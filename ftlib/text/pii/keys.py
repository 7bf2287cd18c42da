"""What the key of a structured value says of the value: `{"pin": 4711}` is a PIN, though 4711 alone is nothing.

In: the path of a value. Out: the words that stand before it where it is scanned (`patient name: `), and the entity type
where the key alone decides. Keys are split at underscores, hyphens, dots and capitals. A key that says nothing itself
(`value`, `text`, a position in a list) leaves it to the one above; `name` alone is a person's only below a word for
people, since programs name everything.
"""

import re
from collections.abc import Sequence

NAMES_A_VALUE = (
    "key",
    "name",
    "field",
    "label",
    "attribute",
    "property",
    "system",
    "type",
    "title",
    "question",
    "code",
)
"""Keys whose value says what the `value` beside it is, the most telling first."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SAYS_NOTHING = frozenset("value values val v text data raw content item items entry display string default".split())  # noqa: SIM905
_MAX_NAME_WORDS, _MAX_NAME_CHARS, _MAX_CODE_CHARS = 6, 80, 64
_PEOPLE = (
    "patient|customer|client|user|employee|contact|person|member|agent|doctor|physician|nurse|author|sender|recipient|"
    "caller|owner|applicant|tenant|student|teacher|spouse|beneficiary|guest|passenger|driver|holder|cardholder|buyer|"
    "seller|payer|payee|account|profile|witness|lawyer|attorney|judge|candidate|subscriber|policyholder|insured|claimant|"
    "plaintiff|defendant|participant|attendee|reporter|requester|assignee|creator|editor|reviewer|approver|manager|signer|guardian|parent|child|relative|kunde|patientin|mitarbeiter|client[ae]|cliente|"
    "paciente|paziente|klant|pacjent|klient|пациент|клиент|患者|客户|顧客|고객|환자"
)
_OF_PERSON = (
    r"(?:first|last|middle|maiden|full|given|family|legal|birth|sur|sir|fore|nick) ?names?|surname|forename|"
    rf"(?:{_PEOPLE})(?: display)? names?|name (?:first|last|middle|given|family)|"
    r"(?:vor|nach|familien)name|apellidos?|pr[ée]nom|cognome|sobrenome|voornaam|achternaam|nazwisko|фамилия|отчество|"
    r"фио|姓名|氏名|성명"
)
_ROLE = (
    rf"(?:{_PEOPLE})|(?:assigned|reported|created|approved|signed|prepared|reviewed) (?:by|to)|assignee|attendee|"
    "interviewer|next of kin"
)
_JUST_NAME = r"nombres?|nom|nome|naam|imi[ęe]|имя|名字|名前|이름|الاسم"
"""What people and things have; in small letters it is a thing's."""
# Entity type → the end of a key's words, or all of them.
_KEYS: tuple[tuple[str, str, str], ...] = (
    ("USERNAME", r"(?:user ?name|login(?: name)?|user login|screen name|benutzername|usuario|identifiant)", "code"),
    ("PASSWORD", r"(?:pass ?word|passwd|pwd|pass ?phrase|pass ?wort|kennwort|"
                 r"mot de passe|contrase[ñn]a|clave|senha|wachtwoord|has[łl]o|пароль|"
                 r"密码|密碼|パスワード|暗証番号|비밀번호|كلمة المرور)", "code"),
    ("PASSWORD", r"(?:pin(?: code| number| nr)?|passcode|otp|"
                 r"(?:security|access|entry|door) code|cvv2?|cvc2?|tan)", "number"),
    ("API_KEY", r"(?:api ?(?:key|token|secret)|secret(?: ?key)?|access ?(?:key|token)|auth ?token|refresh ?token|"
                r"bearer(?: token)?|private key|client secret)", "code"),
    ("EMAIL_ADDRESS", r"(?:e ?mail(?: address)?|mail address|correo(?: electr[óo]nico)?|courriel)", "mail"),
    ("PHONE_NUMBER", r"(?:(?:tele)?phone(?: (?:number|no|nr))?|mobile(?: (?:phone|number|no))?|cell(?: ?phone)?|"
                     r"fax(?: number)?|tel|telefon(?:nummer)?|handy(?:nummer)?|tel[ée]fono|t[ée]l[ée]phone|"
                     r"telefone|telefoon|телефон|电话|電話(?:番号)?|전화(?:번호)?|رقم الهاتف)", "number"),
    ("ZIP_CODE", r"(?:zip(?: ?code)?|post(?:al)? ?code|plz|postleitzahl|code postal|c[óo]digo postal|cep|postcode|"
                 r"邮编|郵便番号|우편번호)", "number"),
    ("US_SSN", r"(?:ssn|social security(?: (?:number|no))?)", "number"),
    ("MEDICAL_RECORD_NUMBER", r"(?:mrn|medical record(?: (?:number|no|id))?|patient (?:id|number|no|mrn))", "number"),
    ("EMPLOYEE_ID", r"(?:employee|emp|staff|personnel|payroll|badge|personal) ?(?:id|number|no|nr|nummer)", "number"),
    ("ACCOUNT_NUMBER", r"(?:(?:bank )?account (?:id|number|no)|acct(?: (?:number|no))?|routing(?: number)?|sort code|"
                       r"kontonummer|iban)", "number"),
    ("CREDIT_CARD", r"(?:(?:credit|debit|payment)? ?card (?:number|no))", "number"),
    ("DRIVER_LICENSE", r"(?:driv(?:er'?s?|ing) ?licen[cs]e(?: (?:number|no))?)", "number"),
    ("PASSPORT", r"(?:passport(?: (?:id|number|no))?|reisepass(?:nummer)?|pasaporte)", "number"),
    ("NATIONAL_ID", r"(?:national (?:id|insurance number)|nino|aadhaar|cpf|curp|dni|nif|nie|bsn|pesel|nric|"
                    r"身份证(?:号)?|주민등록번호|steuer ?id)", "number"),
    ("TAX_ID", r"(?:tax (?:id|number|no)|tin|itin|vat (?:id|number))", "number"),
    ("INSURANCE_ID", r"(?:(?:policy|insurance|member|subscriber) (?:id|number|no))", "number"),
    ("DATE_OF_BIRTH", r"(?:dob|birth ?da(?:te|y)|date of birth|geburtsdatum|fecha de nacimiento|data di nascita|"
                      r"date de naissance|data de nascimento|дата рождения|出生日期|生年月日|생년월일)", "number"),
    ("STREET_ADDRESS", r"(?:street(?: address)?|address line ?\d?|(?:home|mailing|shipping|billing|postal) address|"
                       r"anschrift|stra[ßs]s?e|direcci[óo]n|indirizzo|住所|地址|주소)", "free"),
    ("ID_NUMBER", r"(?:(?:customer|client|user|contract) (?:id|number|no)|kunden ?(?:nummer|nr)|vertragsnummer|"
                  r"aktenzeichen|num[ée]ro (?:de )?client|n[úu]mero de cliente)", "long number"),
    ("PERSON", _OF_PERSON, "name"),
    ("LOCATION", r"(?:city|town|village|wohnort|stadt|ciudad|ville|citt[àa]|cidade|woonplaats|miejscowo[śs][ćc]|город|"
                 r"城市|도시|birth ?place|place of birth|geburtsort)", "place"),
    ("PERSON", _ROLE, "full name"),
    ("PERSON", _JUST_NAME, "place"),
)  # fmt: skip
_RULES = [(entity, re.compile(rf"(?:.*\b)?(?:{words})", re.IGNORECASE), shape) for entity, words, shape in _KEYS]
ENTITIES = sorted({entity for entity, _, _ in _KEYS})
"""What keys can tell."""
_RULES_OF_NAMES = re.compile(
    rf"(?:.*\b)?(?:{_OF_PERSON}|(?:company|firm|employer|organi[sz]ation) name)", re.IGNORECASE
)
_OF_THINGS = re.compile(r"\b(?:product|item|file|field|tool|function|domain|host|brand|event|class|type) names?$")
_SPEAKERS = frozenset("user assistant human system from to gpt model speaker question answer prompt".split())  # noqa: SIM905
_MAX_TOLD_WORDS, _MIN_ID_DIGITS = 2, 4
_NUMBER = re.compile(r"(?=[^\n]*\d)[\w +()./#:,‐-―-]{2,40}")
_NOT_GIVEN = re.compile(
    r"true|false|null|none|n/?a|unknown|yes|no|required|optional|hidden|\*+|\[[A-Z_0-9]+\]", re.IGNORECASE
)


def words_of(key: str) -> str:
    """A key as words: `customerName`, `customer_name` and `customer-name` are `customer name`."""
    return " ".join(_CAMEL.sub(" ", re.sub(r"[\s_.\-/:]+", " ", key)).split())


def cue_of(path: Sequence[str | int], beside: str = "") -> str:
    """The words of the keys that tell about a value: the last one and the one above; empty where there is none.

    Args:
        path: Keys and positions from the outermost value to this one.
        beside: What stands beside the value as its name, as in `{"key": "pin", "value": 4711}`.
    """
    keys = [words_of(part) for part in path if isinstance(part, str)]
    if beside and keys and keys[-1].lower() in _SAYS_NOTHING:
        return words_of(beside)[-_MAX_NAME_CHARS:]
    while len(keys) > 1 and keys[-1].lower() in _SAYS_NOTHING:
        keys.pop()
    return " ".join(word for word in keys[-2:] if word)[-_MAX_NAME_CHARS:]


def entity_of(cue: str, value: str) -> str | None:
    """The entity type of a whole value by its key's words; None where the key does not tell or the value is no such."""
    text = value.strip()
    if not text or not cue or _NOT_GIVEN.fullmatch(text):
        return None
    for entity, pattern, shape in _RULES:
        if pattern.fullmatch(cue) and _fits(shape, text):
            return None if entity == "PERSON" and _OF_THINGS.search(cue.lower()) else entity
    return None


def names_someone(cue: str) -> bool:
    """Whether the words of a key mean a person's name or a person, and not any name."""
    return _RULES_OF_NAMES.fullmatch(cue) is not None or re.fullmatch(rf"(?i:{_ROLE})", cue) is not None


def tells(cue: str, value: str) -> bool:
    """Whether the words of a key belong before its value: `user` before a question is who asks, `name` a product's."""
    words = cue.lower().split()
    if _NOT_GIVEN.fullmatch(value.strip()) or _OF_THINGS.search(cue.lower()):
        return False
    if words[-1] in _SPEAKERS:
        return len(value.split()) <= _MAX_TOLD_WORDS
    return words[-1] not in ("name", "names") or len(words) == 1 or _RULES_OF_NAMES.fullmatch(cue) is not None


def _fits(shape: str, value: str) -> bool:
    if shape in ("name", "full name", "place"):
        words = value.replace(",", " ").split()
        capitals = {"name": 0, "full name": 2, "place": 1}[shape]
        return len(value) <= _MAX_NAME_CHARS and _is_name(words, capitals)
    if shape == "code":
        return len(value) <= _MAX_CODE_CHARS and len(value) >= 3 and not re.search(r"\s\S+\s", value)
    if shape == "mail":
        return "@" in value and " " not in value
    if shape == "long number":
        return _NUMBER.fullmatch(value) is not None and sum(map(str.isdigit, value)) >= _MIN_ID_DIGITS
    if shape == "number":
        return _NUMBER.fullmatch(value) is not None
    return any(map(str.isdigit, value)) and len(value) <= 2 * _MAX_NAME_CHARS


def _is_name(words: Sequence[str], at_least: int) -> bool:
    """Whether words could be a name: a few with capitals or in a script without them, and particles; no sentence."""
    capital = [word for word in words if (word[0].isalpha() and word[0].lower() != word[0]) or not word[0].isascii()]
    rest = [word for word in words if word not in capital]
    clean = all(re.fullmatch(r"[^\W\d_]+(?:['’.·-]+[^\W\d_]*)*\.?", word) for word in words)
    caseless = (
        len(words) == 1 and not words[0].isascii() and len(words[0]) >= 2 and words[0].upper() == words[0].lower()
    )
    if not clean or not words or len(words) > _MAX_NAME_WORDS:
        return False
    if at_least == 0:  # the key says that it is a name, so small letters are a name's as well
        return len(words) <= _MAX_SMALL_WORDS or all(word.lower() in _PARTICLES for word in rest)
    return (len(capital) >= at_least or caseless) and all(word.lower() in _PARTICLES for word in rest)


_MAX_SMALL_WORDS = 3
_PARTICLES = frozenset("van von de der den del della di da dos la le bin ibn al el ter ten af av y zu zum".split())  # noqa: SIM905
