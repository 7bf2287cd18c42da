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
affairs valley the of and for
""".split()  # noqa: SIM905
)


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
