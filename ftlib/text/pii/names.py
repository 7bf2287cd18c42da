"""Recognizers for people, organisations and countries by the words around or inside a name.

They need no NER pipeline, and catch what small pipelines miss: a name after a title, a label, a greeting or a
sign-off, an organisation by its legal form.
"""

import re

from presidio_analyzer import LocalRecognizer

from ftlib.text.pii.places import COUNTRIES
from ftlib.text.pii.rules import Rule, RuleRecognizer

_UP = r"[A-ZÀ-ÖØ-ÞĀ-ſΑ-ΫА-Я]"
_NAME = rf"(?:{_UP}[^\W\d_]*(?:['’-]{_UP}?[^\W\d_]+)*|{_UP}\.)"
_PARTICLE = r"(?:(?:van|von|de|der|den|del|della|di|da|dos|la|le|bin|ibn|al|el|ter|ten|af|av|y)[ ])"
_FULL = rf"{_NAME}(?:[ ]{_PARTICLE}{{0,2}}{_NAME}){{0,3}}"
_TWO = rf"{_NAME}(?:[ ]{_PARTICLE}{{0,2}}{_NAME}){{1,3}}"
_TITLE = r"(?:Mr|Mrs|Ms|Miss|Mx|Messrs|Mister|Madam|Dr|Doctor|Prof|Professor|Sir|Dame|Lady|Lord|Rev|Reverend|Fr|Judge|Justice|Hon|Capt|Captain|Sgt|Sergeant|Lt|Lieutenant|Col|Colonel|Gen|General|Officer|Detective|Nurse|Attorney|Senator|Herr|Frau|Monsieur|Madame|Señora?|Signor[ae]?)"
_LABEL = (
    r"(?:(?:full|first|last|middle|maiden|legal|display|contact|customer|patient|client|account[ ]?holder|card[ ]?holder|employee|member|user|insured|beneficiary|guardian|applicant|emergency[ ]contact)[ _-]?)?name|"
    r"patient|client|attending|physician|provider|surgeon|nurse|therapist|contact|cardholder|account[ ]holder|caller|claimant|plaintiff|defendant|attorney|counsel|"
    r"(?:signed|prepared|reviewed|approved|created|submitted|authored|written|reported|assigned|requested|ordered|dictated|witnessed)[ _]?(?:by|to)|author|assignee|owner|attn|attention|c/o|cc|from|to|user|employee|manager|spouse|next[ ]of[ ]kin|nok|guardian|reviewer|maintainer|signed|sincerely"
)
_NOT_NAMES = r"(?!(?:The|This|That|These|Those|My|Your|Our|Their|It|Its|We|You|He|She|They|I|A|An|And|Or|But|If|In|On|At|To|For|Of|With|From|By|As|Is|Are|Was|Were|Please|Thank|Thanks|Dear|Hi|Hello|Hey|Support|Team|Customer|Service|Sir|Madam|All|Everyone|There|Folks|Date|Phone|Email|Address|Unknown|None|Null|True|False|N|Help|Re|Best|Kind|Warm|Regards|Sincerely|Yours|Cheers|Many|No|Not|Yes|Can|Could|Would|How|What|When|Where|Why|Who|Just|Since|After|Before|Now|Also|Still|Account|Order|Billing|Technical|Number|Id|ID)\b)"
_GREETING = r"(?:[Dd]ear|[Hh]i|[Hh]ello|[Hh]ey|[Gg]ood\s(?:morning|afternoon|evening)|[Gg]reetings|HI|HELLO|DEAR)"
_CLOSING = r"(?:(?:[Kk]ind|[Bb]est|[Ww]arm(?:est)?|[Mm]any)\s)?(?:[Rr]egards|[Tt]hanks(?:\sin\sadvance|\sagain|\sa\slot|\sso\smuch)?|[Tt]hank\syou(?:\sin\sadvance|\sso\smuch|\svery\smuch)?|[Ss]incerely(?:\syours)?|[Cc]heers|[Yy]ours(?:\s(?:truly|sincerely|faithfully))?|[Bb]est(?:\swishes)?|[Rr]espectfully|[Ww]ishes)"
_SELF = r"(?:[Mm]y\s(?:full\s|legal\s)?name(?:\sis|['’]s)|[Nn]ame['’]s|[Cc]all\sme|I\sam\scalled|[Nn]amed|[Kk]nown\sas|on\sbehalf\sof|in\sthe\sname\sof|(?:under|registered\sto|belongs\sto|issued\sto|(?:partner|wife|husband|son|daughter|mother|father|brother|sister|friend|colleague|boss|manager|landlord|tenant|doctor|assistant)['’]?s?,?(?:\sname)?(?:\sis)?))"
_LEGAL_FORM = r"(?:Inc|Ltd|LLC|LLP|Corp|Corporation|Co|PLC|plc|GmbH|AG|S\.?A\.?|S\.?r\.?l\.?|B\.?V\.?|N\.?V\.?|AB|ApS|Oy|Pty|Limited|Incorporated|Company|Group|Holdings?|Partners|Associates|Industries|Enterprises|Solutions|Systems|Technologies|Labs?|Bank|University|College|Hospital|Clinic|Institute|Foundation|Insurance|Pharmacy|Consulting|Ventures|Capital|Logistics|Motors|Airlines|Pharmaceuticals|Laborator(?:y|ies))"
_COMPANY = rf"(?<![\w.@])(?:{_UP}[\w&'’-]*(?:\.[\w&]+)*[ ,]{{1,2}}(?:(?:and|&|of)[ ])?){{1,4}}{_LEGAL_FORM}\b\.?"


def _rules() -> list[Rule]:
    def person(pattern: str, score: float, needs: tuple[str, ...] = ()) -> Rule:
        return Rule("PERSON", re.compile(pattern), score, needs=needs)

    full, two = rf"(?P<v>{_NOT_NAMES}{_FULL})", rf"(?P<v>{_NOT_NAMES}{_TWO})"
    return [
        person(rf"(?<!\w){_TITLE}\b\.?[ ]{_NOT_NAMES}{_FULL}(?:,?[ ](?:Jr|Sr|II|III|MD|PhD|Esq|RN|DO)\b\.?)?", 0.85),
        person(rf"(?<![\w@.])(?:mr|mrs|ms|miss|dr)\b\.?[ ][a-zà-ÿ'’-]{{2,20}}", 0.6, ("mr", "ms", "miss", "dr")),
        person(rf"(?<!\w)(?i:{_LABEL})['\"]?[ ]?(?:[:=]|=>)[ ]?['\"]?{two}(?!\w)", 0.8, (":", "=")),
        person(rf"(?<!\w)(?i:(?:\w+[ _-])?name|patient|attn)['\"]?[ ]?[:=][ ]?['\"]?{full}(?=['\"\s,;.|]|$)", 0.7, ("name", "patient", "attn")),
        person(rf"(?:^|[\n.!?\"'(][ ]*){_GREETING},?[ ]{full}(?=[ ]*[,!.:;\n–-]|[ ]*$)", 0.75, ("dear", "hi", "hello", "hey", "good", "greetings")),
        person(rf"(?<!\w){_CLOSING}[ ]*[,.!-]?[ ]*\n+[ ]*[-–—~]*[ ]*{full}(?=[ ]*(?:[\n,.|(]|$))", 0.8),
        person(rf"(?<!\w){_CLOSING}[ ]*[,!.–—-]+[ ]*{full}[ ]*\.?[ ]*(?=\n|$)", 0.75),
        person(rf"(?:^|\n|[.!?][ ])[ ]*[-–—~]{{1,2}}[ ]?{full}[ ]*(?=\n|$)", 0.6, ("-", "–", "—", "~")),
        person(rf"(?<!\w){_SELF}[ ]{full}", 0.75, ("name", "call", "known", "behalf", "under", "to", "'s", "is", "partner", "wife", "husband", "son", "daughter", "mother", "father", "brother", "sister", "friend", "colleague", "boss", "manager", "landlord", "tenant", "doctor", "assistant")),
        person(rf"(?:\bI['’]?m|\bI\sam|\b[Tt]his\sis|\bit['’]s|\bhere\sis)[ ]{two}", 0.6, ("i'm", "i’m", "im ", "i am", "this is", "it's", "it’s", "here is")),
        person(rf"(?m)^[ ]*(?P<v>{_NOT_NAMES}{_TWO})(?=[ ]?[(<][^)>\n]{{0,40}}@)", 0.8, ("@",)),
        Rule("ORGANIZATION", re.compile(_COMPANY), 0.7),
        Rule("LOCATION", re.compile(rf"(?<![\w-])(?:{COUNTRIES})(?![\w-])"), 0.6),
        Rule("LOCATION", re.compile(rf"\b(?:from|in|to|at|of|visit|near)[ ](?:the[ ])?(?P<v>{COUNTRIES})(?![\w-])", re.IGNORECASE), 0.6, needs=("from", "in", "to", "at", "of", "visit", "near")),
    ]  # fmt: skip


def name_recognizers(language: str) -> list[LocalRecognizer]:
    """People, organisations and countries by cue."""
    return [RuleRecognizer("NameCueRecognizer", _rules(), language)]
