"""Recognizers for what opens a door: user names, passwords, PINs, API keys, tokens and private keys."""

import base64
import math
import re
from collections import Counter

from ftlib.text.pii.labels import IS, PASSWORD_LABELS, USER_LABELS
from ftlib.text.pii.letters import LABEL_END, WORD
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import Rule, RuleRecognizer

_ISSUED_KEY = r"""(?<![\w-])(?:
    (?:sk|pk|rk|api|key|tok|whsec|secret)[-_](?:live[-_]|test[-_]|prod[-_]|proj[-_]|ant[-_])?(?=[\w-]*\d)[A-Za-z0-9_-]{8,200}
  | gh[opusr]_[A-Za-z0-9]{20,255} | github_pat_\w{20,255} | glpat-[\w-]{16,64} | xox[abeprs]-[A-Za-z0-9-]{10,200}
  | (?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,20} | AIza[\w-]{30,40} | ya29\.[\w-]{20,255} | SG\.[\w-]{16,32}\.[\w-]{16,64}
  | hf_[A-Za-z0-9]{20,64} | npm_[A-Za-z0-9]{30,64} | dop_v1_[a-f0-9]{32,64} | shp[ac]t_[a-f0-9]{24,64}
  | pypi-[\w-]{30,255}
  | eyJ[\w-]{4,}(?:\.[\w-]+){0,2}(?:\.{3})?
)(?![A-Za-z0-9-])"""
# An underscore before these is no part of a name that only looks like a key, as in `my_api_v2_client_name`.
_GLUED_KEY = r"""(?<=_)(?:
    (?:sk|pk|rk)[-_](?:live|test|prod|proj|ant)[-_](?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{8,200}
  | gh[opusr]_[A-Za-z0-9]{20,255} | github_pat_[A-Za-z0-9_]{20,255} | glpat-[A-Za-z0-9_-]{16,64}
  | xox[abeprs]-[A-Za-z0-9-]{10,200} | (?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,20} | AIza[A-Za-z0-9_-]{30,40}
  | SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64} | hf_[A-Za-z0-9]{20,64} | npm_[A-Za-z0-9]{30,64}
  | dop_v1_[a-f0-9]{32,64} | shp[ac]t_[a-f0-9]{24,64} | pypi-[A-Za-z0-9_-]{30,255}
  | eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?
)(?![A-Za-z0-9-])"""
_PRIVATE_KEY = r"-----BEGIN [A-Z ]*(?:PRIVATE KEY|CERTIFICATE)-----[\s\S]{0,8192}?(?:-----END [A-Z ]+-----|\Z)"
_SEP = r"['\"]?\s{0,3}(?::=|=>|[:=]|->|\bis\b|\bwas\b|\bto\b)\s{0,3}[`'\"]?"
_KEY_LABEL = (
    r"(?:api|access|secret|auth(?:entication|orization)?|client|private|encryption|signing|security|session|bearer|"
    r"refresh|"
    r"service|license|activation|webhook|master|deploy|storage|account|consumer)"
    r"[\s_-]?(?:api[\s_-]?)?(?:key|token|secret|id[\s_-]?token)|token|bearer|secret|apikey|x-api-key|credentials?"
)
_LABELLED_KEY = (
    rf"(?i:(?<![A-Za-z])(?:\w{{1,20}}[_-])?(?:{_KEY_LABEL})(?:\s\w{{1,12}}){{0,2}}?)(?i:{_SEP}|\s)(?i:bearer\s)?"
    rf"(?P<v>[A-Za-z0-9_\-+/=.~]{{8,300}})(?![\w])"
)
_NEAR_KEY = r"(?i:\b(?:key|token|secret)s?\b[^\n]{0,16}?)\b(?P<v>(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{16,128})\b"
_PASSWORD_LABEL = (
    r"(?:(?<![A-Za-z])(?:\w{1,20}[_-])?|(?<=[a-z])(?-i:(?=P)))(?:password|passwd|passphrase|passcode|pass(?:word)?|"
    r"pwd|pw)\w{0,8}"
)
_PASSWORD = (
    rf"(?i:{_PASSWORD_LABEL})(?:\s?\([^)\n]{{1,20}}\))?(?:\s(?:for|of|on)\s[\w.@-]{{1,40}}){{0,2}}"
    rf"(?i:{_SEP}|\s(?:è|é|es|est|ist|lautet)\s)"
    rf"(?P<v>[^\s'\"`,;<>]{{4,128}})"
)
_QUOTED_PASSWORD = rf"(?i:{_PASSWORD_LABEL})[^\n'\"`]{{0,24}}[`'\"](?P<v>[^\s'\"`]{{4,128}})[`'\"]"
_IDENTIFIED_BY = r"(?i:identified\s(?:with\s\S+\s)?by|requirepass|sshpass\s-p)\s?[`'\"]?(?P<v>[^\s'\"`;,]{4,128})"
_BARE_PASSWORD = (
    rf"(?i:{_PASSWORD_LABEL})\s[`'\"(]?(?P<v>(?=\S*[\d!@#$%^&*+=?~_-])(?=\S*[A-Za-z])[^\s'\"`,;<>()]{{6,64}})"
)
_IN_URL = r"(?<![a-z])[a-z][\w+.-]{1,20}://[^\s:/@]{1,64}:(?P<v>[^\s/@]{1,128})@"
_SECRET = r"(?-i:[^\s'\"`,;<>\u0370-\U0010ffff])"
"""A character of a password: text of another script behind it is not part of it.

Never without regard to case: `k` is also the small letter of the Kelvin sign, which is one of those left out.
"""
_FOREIGN_PASSWORD = (
    rf"(?<![{WORD}])(?:{PASSWORD_LABELS}){LABEL_END}(?:\s\w{{1,12}})?['\"]?\s{{0,3}}{IS}\s{{0,2}}[`'\"]?"
    rf"(?P<v>{_SECRET}{{4,128}})"
)
_BARE_FOREIGN_PASSWORD = (
    rf"(?<![{WORD}])(?:{PASSWORD_LABELS})\s{{0,2}}[`'\"(]?(?P<v>(?![:=])(?=\S{{0,60}}[0-9!@#$%^&*+=?~_-])"
    rf"(?=\S{{0,60}}[A-Za-z]){_SECRET}{{6,64}})"
)
_FOREIGN_USER = (
    rf"(?<![{WORD}])(?:{USER_LABELS}){LABEL_END}"
    rf"['\"]?\s{{0,3}}{IS}\s{{0,2}}[`'\"]?(?P<v>@?[A-Za-z][A-Za-z0-9_.-]{{1,38}}[A-Za-z0-9_])"
    r"(?![A-Za-z0-9_@])"
)
_BASIC = r"(?i:\bbasic)\s{1,3}(?P<v>[A-Za-z0-9+/_-]{8,512}={0,2})(?![A-Za-z0-9+/=])"
_BEARER = (
    r"(?i:\b(?:bearer|token|apikey|api-key|digest|negotiate|ntlm))\s{1,3}(?P<v>"
    r"(?=\S{0,80}\d)[A-Za-z0-9+/_.~-]{16,2048}={0,2})(?![\w+/=])"
)
_HEADER_KEY = (
    r"(?i:\b(?:proxy-)?authorization|\bx-(?:[a-z]+-)*(?:key|token|secret|auth))"
    r"['\"]?\s{0,2}[:=]\s{0,2}['\"]?"
    r"(?i:(?:basic|bearer|token|digest|apikey)\s{1,3})?(?P<v>(?=[^\s'\",;]{0,80}\d)[^\s'\",;]{8,2048})"
)
_COOKIE = (
    r"(?i:\b(?:\w{0,20}sess(?:ion)?(?:_?id)?|sid|jsessionid|phpsessid|connect\.sid|csrf(?:_?token)?|xsrf-token|"
    r"auth(?:_?token)?|"
    r"access_?token|refresh_?token|id_?token|jwt))=(?P<v>[A-Za-z0-9%_.~+/=:-]{8,2048})"
)
_USER_OPTION = (
    r"(?:(?<=\s)|^)(?:-u|--user|--proxy-user|-U|--login)[= ]{0,2}['\"]?(?P<v>[^\s:'\"/]{1,64}:[^\s'\"]{3,128})"
)
_USER_AT_HOST = (
    r"(?<![\w:/@.])(?P<v>[A-Za-z][\w.-]{1,31}:(?=[^\s:/@]*[\d!#$%^&*])[^\s:/@'\"]{4,64})@[A-Za-z0-9][\w.-]{2,}"
)
_PAIR = (
    r"(?i:\b(?:login|log-in|credentials?|creds|logon|sign-in|access|"
    r"user(?:name)?(?:[ /&+]{1,3}(?:and[ ])?(?:password|pass|pwd|pw)))"
    r"(?:\s(?:data|details|info))?|zugangsdaten|anmeldedaten|identifiants|credenciales|credenziali|inloggegevens|"
    r"credenciais|"
    r"dane logowania|登录信息|ログイン情報|로그인 정보|логин/пароль)\s{0,2}[:=]\s{0,2}['\"]?"
    r"(?P<v>[A-Za-z][\w.@+-]{1,63}\s{0,2}[/|,:]\s{0,2}(?=[^\s'\"]{0,60}[\d!#$%^&*])[^\s'\"/|,;]{4,64})"
)
_OPTION_END = r"(?P<v>(?<=['\"])[^'\"\n$]{3,64}(?=['\"])|(?![-$<{%])[^\s'\"`|;<>]{3,128})"
_GLUED_OPTION = (
    r"\b(?:mysql[a-z]{0,8}|mariadb(?:-[a-z]{1,8})?|sshpass|7za?)\s[^\n|;]{0,160}?(?<=\s)-p(?![a-z]{3,10}[ =:])['\"]?"
    rf"{_OPTION_END}"
)
_SPACED_OPTION = (
    r"\b(?:(?:mongo(?:sh|dump|restore|export|import)?|(?:docker|podman|az|oc|helm\sregistry)\slogin|sshpass)\s"
    r"(?:[^\n|;]{0,160}?\s)?-p|(?:sqlcmd|bcp|osql|unzip|zip|mosquitto_(?:pub|sub))\s(?:[^\n|;]{0,160}?\s)?-P|"
    r"redis-cli\s(?:[^\n|;]{0,160}?\s)?-a|(?:plink|pscp)\s(?:[^\n|;]{0,160}?\s)?-pw|"
    r"ldap(?:search|modify|add|delete|whoami)\s(?:[^\n|;]{0,160}?\s)?-w)\s{1,3}['\"]?"
    rf"{_OPTION_END}"
)
_VARIABLE = (
    r"(?<![A-Za-z0-9_])(?:(?:[A-Z0-9]{1,16}_){0,3}(?:[A-Z]{0,8}(?:PASSWORD|PASSWD)|PASS|SSHPASS)|"
    r"(?:[A-Z0-9]{1,16}_){1,3}PWD|"
    r"REDISCLI_AUTH)=['\"]?"
    r"(?P<v>(?<=['\"])[^'\"\n$]{3,64}(?=['\"])|(?![-$<{%/*])[^\s'\"`|;&<>]{3,128})"
)
_LONG_OPTION = rf"(?:(?<=\s)|^)--(?:password|passwd|passphrase|pass|pwd)(?:=|\s{{1,3}})['\"]?{_OPTION_END}"
_LOGIN_PAIR = (
    r"(?i:\b(?:log[ -]?in|log[ -]?on|sign[ -]?in|logged[ ]in|credentials?|creds|zugang(?:sdaten)?|"
    r"anmeldung|anmeldedaten|"
    r"identifiants|credenciales|acceso|credenziali|inloggegevens|логин)"
    r"(?:[ ](?:is|are|was|with|as|using|to|use|data|details|mit|ist|avec|con|met)){0,2})[ ]{1,2}[`'\"(]?"
    r"(?P<v>[A-Za-z][A-Za-z0-9_.@+-]{1,63}[ ]?[/|:][ ]?(?P<secret>[^\s'\"`/|:,;<>()]{6,64}))(?![/\w])"
)
_SHORT_LABELS = r"(?i:\b(?:pwd|passwd|psw|pass|pw)\b)['\"]?\s{0,2}[=:]\s{0,2}['\"]?(?P<v>[^\s'\"`,;<>&]{4,128})"
_SHORT_USER = r"(?i:\b(?:user|usr|uid|login|username)\b)['\"]?\s{0,2}=\s{0,2}['\"]?(?P<v>[A-Za-z][\w.@-]{2,63})"
_CAMEL_KEY = (
    r"(?<![A-Za-z])[a-z]{2,20}(?:Key|Token|Secret|Credential|Credentials|ApiKey|AccessKey|PrivateKey)"
    r"['\"]?\s{0,2}[:=]\s{0,2}['\"]?"
    r"(?P<v>[A-Za-z0-9_+/=.~-]{8,512})"
)
_PIN = (
    r"(?i:\b(?:pin|passcode|otp|tan|puk|security code|cvv2?|cvc|verification code|access code|one[- ]time code|"
    r"geheimzahl|"
    r"code (?:pin|secret)|código de (?:verificación|seguridad)|codice di (?:verifica|sicurezza)|"
    r"pincode))\b(?:[\s-](?:code|number))?['\"]?\s{0,2}(?::|=|\b(?:is|was|ist|lautet|est|es|è|é|to)\b)?\s{0,2}['\"]?"
    r"(?P<v>\d{3,8})(?![\w-])"
)
_USER_LABEL = (
    r"user[\s_-]?(?:name|id)?s?|login(?:[\s_-](?:name|id|user))?|log[\s-]?in|logged in as|signed in as|log in as|"
    r"(?:account|screen|display|nick)[\s_-]?name|handle|uid|sys_?user|db_?user|owner_?id|usr|author_?id|"
    r"(?:twitter|instagram|telegram|skype|discord|slack|github|linkedin|tiktok|facebook)(?:[\s_-](?:handle|id|name|"
    r"user(?:name)?|account))?"
)
_USERNAME = (
    rf"(?i:(?<![A-Za-z])(?:\w{{1,20}}_)?(?:{_USER_LABEL}))(?:['\"]?\s{{0,3}}(?i:=>|[:=]|\bis\b|\bwas\b|\bas\b|"
    rf"->)\s{{0,3}}[`'\"]?|\s[`'\"(]|\s(?=@)|\s(?=[\w.-]*[\d_]))(?P<v>@?[A-Za-z][\w.-]{{1,38}}\w)(?![\w@])"
)
_ASSIGNED_USER = r"(?i:\w{0,20}user)['\"]?\s{0,3}(?::=|=>|[:=])\s{0,3}['\"`](?P<v>[A-Za-z][\w.-]{2,39})['\"`]"
_AT_HOST = (
    r"(?i:\b(?:ssh|scp|sftp|rsync|su -l?|sudo -u|chown|mysql -u|psql -u|-u)\s(?:-\S+\s(?:\S+\s)?)?)['\"]?"
    r"(?P<v>[A-Za-z_][\w.-]{2,31})(?=['\"]?@|['\"\s:]|$)"
)
_SQL_USER = r"'(?P<v>[A-Za-z_][\w.-]{1,63})'@'"
_BY_USER = (
    r"(?i:\buser|\baccount|\bby|\bfrom|\bfor|\bas)\s['\"`]?(?P<v>(?=[a-z._-]*[\d_])[a-z][a-z0-9]*"
    r"(?:[._-]?[a-z0-9]+){0,4})['\"`]?(?![\w@./-])"
)
_HOME = r"(?:/home/|/Users/|C:\\Users\\)(?P<v>[A-Za-z][\w.-]{1,31})(?=[/\\\s'\":]|$)"

_NOT_SECRET = re.compile(
    r"(?i)(?:true|false|null|none|required|expired|invalid|incorrect|wrong|reset|changed?|please|your|with|that|"
    r"this|been|"
    r"https?:|\[?redacted.*|\*+|x+|\.+|os\.\w+.*|process\.env.*|getenv.*|\$\{?\w*\}?|<.*|.*\(\)?|string|str|int|bytes|"
    r"not|stored|hashed|working|correct|very|hidden|secret|token|password|username|and|the|for|sent|valid|missing|here)"
)


def entropy(value: str) -> float:
    """Shannon entropy of a string's characters, bits a character."""
    counts, total = Counter(value).values(), len(value)
    return -sum(count / total * math.log2(count / total) for count in counts) if total else 0.0


def _is_password(value: str) -> bool:
    return len(value) >= 4 and not _NOT_SECRET.fullmatch(value.rstrip(".,;:!?)"))


def _stated_password(value: str) -> bool:
    """A password in prose: more than a plain word, which would be the rest of the sentence."""
    value = value.rstrip(".,;:!?)")
    kinds = [any(map(str.isdigit, value)), not value.isalnum(), not (value[1:].islower() or value[1:].isupper())]
    return _is_password(value) and any(kinds)


def _is_pair(match: re.Match[str]) -> bool:
    """A user and a password behind a word for logging in; paths and versions (`login src/auth2`) are none."""
    secret = match["secret"].rstrip(".!?")
    kinds = [any(map(str.isdigit, secret)), any(map(str.islower, secret)), any(map(str.isupper, secret))]
    signs = bool(re.search(r"[!#$%^&*?@+=~]", secret))
    return not re.fullmatch(r"[\w-]+\.[A-Za-z]{1,5}", secret) and sum(kinds) + signs >= 3


def _is_option(value: str) -> bool:
    """A password behind an option; not the name of a variable or a word that stands for one."""
    return not re.fullmatch(
        r"(?i)\*+|x{3,}|\.+|\[?redacted.*|\[.*\]|<.*|\{.*|password|passwd|your\S*|port\S*|\d{2,5}:\d{2,5}", value
    )


def _is_flag_value(value: str) -> bool:
    """A password behind `--password`; not the rest of a sentence about it."""
    return _is_option(value) and not re.fullmatch(
        r"(?i)(?:option|flag|argument|parameter|switch|prompt|was|were|has|had|and|can|will|must|should|may|"
        r"for|with|from|"
        r"instead|when|where|which|that|the|this|your|not|does|is|are|required|to|if|on|in|or|as)[,.:;!?]?",
        value,
    )


def _is_told(match: re.Match[str]) -> bool:
    """A password behind a sign, or one that is more than a plain word behind a verb (`Das Passwort ist falsch`)."""
    head, value = match.string[match.start() : match.start("v")], match["v"]
    return _stated_password(value) if _LATIN_END.search(head) else _is_password(value)


_LATIN_END = re.compile(r"[a-z\u00df-\u024f]\s*$", re.IGNORECASE)


def _is_key(value: str) -> bool:
    """A key under its label: digits and letters mixed, or too random for words."""
    if not _is_password(value) or re.fullmatch(r"[A-Za-z]+(?:[-_./][A-Za-z]+)*\.?|[\d.,/-]+", value):
        return len(value) >= 20 and entropy(value) > 3.7 and not re.search(r"[-_./]", value) and not value.islower()
    return any(map(str.isdigit, value))


def _is_basic(value: str) -> bool:
    """Base64 of `user:password`."""
    try:
        plain = base64.b64decode(value.translate(_URL_SAFE) + "=" * (-len(value) % 4), validate=True)
    except ValueError:
        return False
    return b":" in plain


_URL_SAFE = str.maketrans("-_", "+/")


def _is_random(value: str) -> bool:
    """A long string of all three kinds of characters with the spread of random ones; hexadecimal digests are not."""
    kinds = sum((any(map(str.isdigit, value)), any(map(str.islower, value)), any(map(str.isupper, value))))
    return kinds == 3 and entropy(value) > 3.8 and not re.search(r"[a-z]{7,}|/[a-z]+/", value)


def _is_username(value: str) -> bool:
    return not _NOT_SECRET.fullmatch(value) and not re.fullmatch(
        r"(?i)(?:id|name|account|accounts|password|and|or|in|to|is|was|has|from|can|could|not|error|failed|page|data|"
        r"agent|session|request|interface|experience|admin|root|guest|postgres|ubuntu|user|users|system|management)",
        value,
    )


def _looks_like_login(value: str) -> bool:
    """Letters and digits run together, as in `jsmith42`; not a version, a unit or a code word like `utf8`."""
    return bool(re.search(r"[a-z]{3}", value)) and not re.fullmatch(
        r"(?:v|utf|sha|md|http|ipv|oauth|base|web|python|java|node|ec|s|sub|top|under|over)[\d._-]*", value
    )


def credential_recognizers(language: str) -> list[LocalRecognizer]:
    """User names, passwords, PINs, keys and tokens."""
    rules = [
        Rule("API_KEY", re.compile(_ISSUED_KEY, re.VERBOSE | re.ASCII), 0.95),
        Rule("API_KEY", re.compile(_GLUED_KEY, re.VERBOSE | re.ASCII), 0.95),
        Rule("API_KEY", re.compile(_PRIVATE_KEY, re.ASCII), 1.0),
        Rule(
            "API_KEY",
            re.compile(_LABELLED_KEY, re.ASCII),
            0.85,
            accept=_is_key,
        ),
        Rule(
            "API_KEY",
            re.compile(r"(?<![\w/+.-])[A-Za-z0-9_+/-]{24,256}={0,2}(?![\w/+.-])", re.ASCII),
            0.6,
            accept=_is_random,
        ),
        Rule("API_KEY", re.compile(_NEAR_KEY, re.ASCII), 0.75),
        Rule("PASSWORD", re.compile(_PASSWORD, re.ASCII), 0.9, accept=_stated_password),
        Rule("PASSWORD", re.compile(_QUOTED_PASSWORD, re.ASCII), 0.85, accept=_is_password),
        Rule("PASSWORD", re.compile(_BARE_PASSWORD, re.ASCII), 0.7, accept=_stated_password),
        Rule(
            "PASSWORD",
            re.compile(_IDENTIFIED_BY, re.ASCII),
            0.9,
            accept=_is_password,
        ),
        Rule("PASSWORD", re.compile(_GLUED_OPTION, re.ASCII), 0.9, accept=_is_option),
        Rule("PASSWORD", re.compile(_SPACED_OPTION, re.ASCII), 0.9, accept=_is_option),
        Rule("PASSWORD", re.compile(_LONG_OPTION, re.ASCII), 0.9, accept=_is_flag_value),
        Rule("PASSWORD", re.compile(_VARIABLE, re.ASCII), 0.85, accept=_is_option),
        Rule("PASSWORD", re.compile(_LOGIN_PAIR, re.ASCII), 0.85, where=_is_pair),
        Rule("API_KEY", re.compile(_BASIC, re.ASCII), 0.95, accept=_is_basic),
        Rule("API_KEY", re.compile(_BEARER, re.ASCII), 0.9, accept=_is_password),
        Rule("API_KEY", re.compile(_HEADER_KEY, re.ASCII), 0.85, accept=_is_password),
        Rule("API_KEY", re.compile(_COOKIE, re.ASCII), 0.92, accept=_is_key),
        Rule("API_KEY", re.compile(_CAMEL_KEY, re.ASCII), 0.85, accept=_is_key),
        Rule("PASSWORD", re.compile(_USER_OPTION, re.ASCII), 0.9),
        Rule("PASSWORD", re.compile(_USER_AT_HOST, re.ASCII), 0.85),
        Rule("PASSWORD", re.compile(_PAIR, re.ASCII), 0.85),
        Rule("PASSWORD", re.compile(_SHORT_LABELS, re.ASCII), 0.8, accept=_is_password),
        Rule("USERNAME", re.compile(_SHORT_USER, re.ASCII), 0.7, accept=_is_username),
        Rule("PASSWORD", re.compile(_FOREIGN_PASSWORD, re.IGNORECASE), 0.85, where=_is_told),
        Rule("PASSWORD", re.compile(_BARE_FOREIGN_PASSWORD, re.IGNORECASE), 0.7, accept=_stated_password),
        Rule("USERNAME", re.compile(_FOREIGN_USER, re.IGNORECASE), 0.8, accept=_is_username),
        Rule("PASSWORD", re.compile(_IN_URL, re.ASCII), 0.9),
        Rule("PASSWORD", re.compile(_PIN, re.ASCII), 0.8),
        Rule("USERNAME", re.compile(_USERNAME, re.ASCII), 0.8, accept=_is_username),
        Rule("USERNAME", re.compile(_ASSIGNED_USER, re.ASCII), 0.75, accept=_is_username),
        Rule(
            "USERNAME",
            re.compile(_AT_HOST, re.ASCII),
            0.7,
            accept=_is_username,
        ),
        Rule("USERNAME", re.compile(_SQL_USER, re.ASCII), 0.9),
        Rule("USERNAME", re.compile(_HOME, re.ASCII), 0.7, accept=_is_username),
        Rule("USERNAME", re.compile(_BY_USER, re.ASCII), 0.6, accept=_looks_like_login),
    ]
    return [RuleRecognizer("CredentialRecognizer", rules, language)]
