"""Words that look like names to a small pipeline or a capital letter, and are none."""

import re

# Words that small pipelines take for names where they stand capitalised at the start of a sentence or a field.
_COMMON = frozenset(
    """
please password username user login email mail phone address account card number order ticket remove delete
signing cheers thanks thank regards hello hi hey dear best kind warm sincerely yours bye yes no okay ok sure
sorry welcome server client database token key secret api admin root null none true false error warning info
debug update install download upload open close start stop run check click reset change cancel refund invoice
billing payment delivery shipping support team customer service help note date time today tomorrow yesterday
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
september october november december ssn dob mrn iban visa patient doctor nurse insurance policy member id url
ip mac fax tel mobile cell contact name title subject re fw fwd from to cc bcc attn sir madam whenever take
everything come let could can would you he she they we it this that there here what when where which who why
how if and or but not only just also some any all of birth esq jr sr md phd rn do
""".split()  # noqa: SIM905
)
# Words of documents, software and medicine: a span with one of them is a heading or a term, not a person or a firm.
_TERM = re.compile(
    r"(?i)\b(?:department|dept|healthcare|summary|report|notes?|records?|context|section|description|history|plan|assessment|diagnosis|specimen|"
    r"prescription|medications?|discharge|admission|procedure|findings?|impression|vitals?|experience|education|skills|"
    r"software|hardware|config(?:uration)?|alert|maintainer|macros?|system|prompt|assistant|instructions?|requests?|"
    r"response|session|metadata|deploy(?:ment)?|docker|kubernetes|python|javascript|java|postgres(?:ql)?|mysql|redis|"
    r"linux|windows|github|select|grant|insert|create|confidential|copyright|disease|disorder|syndrome|hypertension|"
    r"failure|infection|fracture|diabetes|mellitus|cancer|carcinoma|lupus|gleason|callback|redirect|behaviou?r|asthma|migraine|fibrillation|pneumonia|anxiety|"
    r"chronic|acute|panel|scan|imaging|biopsy|blood|therapy|dose|tablet|capsule|\w+(?:itis|osis|emia|pathy|ectomy|"
    r"oscopy|"
    r"plasty|graphy|algia|pril|sartan|statin|prazole|olol|formin|cillin|mycin|traline|oxetine|pine|zepam|zolam|"
    r"triptan))\b"
)


# Words that kinds of institutions and their departments are named with: alone they name none.
_GENERIC = frozenset(
    """
university hospital community health healthcare center centre medical clinic regional general memorial children
national institute cancer care county city state public school college department services service family urgent
women rehabilitation research foundation bank insurance company pharmacy laboratory lab labs group internal
emergency medicine surgery practice northeast northwest southeast southwest north south east west central veterans
affairs valley the of and for review systems
""".split()  # noqa: SIM905
)

# Words of menus, lists, headings and manuals: a span of nothing but them names no one.
_PLAIN_WORDS = frozenset(
    """
settings setting notifications notification mute display desktop apps app applications utilities trash bin toggle auto
save guide data agenda bag sleeping mode airplane quick default defaults general privacy battery saver profile search
menu home view edit insert tools options window format page start back next previous finish cancel apply close exit
light dark night sound volume brightness picture network internet sharing keyboard shortcut shortcuts language region
table contents terms conditions policy overview introduction conclusion chapter appendix requirements instructions
safety technical product products return returns refund maintenance cleaning risk lessons learned executive frequently
asked questions answers works methods materials results discussion scope features review systems steps step list
checklist personalize choose select tap swipe open press hold drag pick turn empty add cart upload file folder
document print camp stove tent grass kitchen garden paper tape box case cover cable adapter charger screen button icon
bar panel grew raid speedrun ignore what valley midwest peninsula reset restart reboot install uninstall version
release update typescript eslint prettier nginx alpine def import export return function class const let var public
static void main small medium large extra free fast new old best top first last all none other more less full half
true false yes no grace periods period total average minimum maximum number numbers level levels size sizes colour
colour colors weight price prices cost costs time date week month year day hour minute second morning evening night
summer winter spring autumn north south east west left right up down in out on off over under to from and or of for
with without the a an
""".split()  # noqa: SIM905
)


def is_plain(value: str) -> bool:
    """Whether a span holds nothing but words of menus, lists and headings: `Airplane Mode`, `Quick Start Guide`."""
    words = re.findall(r"[^\W\d_]+", value.lower())
    return bool(words) and all(word in _PLAIN_WORDS or word in _COMMON for word in words)


def is_generic(value: str) -> bool:
    """Whether a span holds nothing but such words: `University Hospital`, `General Surgery`."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"['’]s\b", "", value.lower()))
    return bool(words) and all(word in _GENERIC for word in words)


def is_common(word: str) -> bool:
    """Whether a word is one that stands capitalised in fields and at the start of sentences without being a name."""
    return word.lower() in _COMMON


def is_term(value: str) -> bool:
    """Whether a span holds a word of documents, software or medicine that names of people and firms do not have."""
    return _TERM.search(value) is not None
