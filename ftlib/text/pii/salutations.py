"""Recognizers for people by the title, greeting or sign-off beside their name, in languages beside English.

German, French, Spanish, Italian, Dutch, Portuguese, Polish and Russian here; names without capitals in `honorifics`.
A word that addresses anyone (`Damen und Herren`, `Cliente`, `Kolleginnen`) is no name.
"""

import re

from ftlib.text.pii.letters import compile_latin
from ftlib.text.pii.months import with_loose_accents
from ftlib.text.pii.names import FULL, NOT_NAMES, OTHER, PARTICLE
from ftlib.text.pii.rules import Rule
from ftlib.text.pii.terms import is_generic

_TITLE = with_loose_accents(
    r"(?:Herrn?|Frau|Fräulein|Familie|Hr\.|Monsieur|Madame|Mademoiselle|Maître|Mme\.?|Mlle\.?|Señora?|Señorita|Sr\.|"
    r"Sra\.?|Srta\.?|Doña|Dña\.|Signora?|Signorina|Sig\.(?:\s?(?:ra|na))?|Dott(?:ore|oressa)?\.?(?:ssa)?|Avv\.|Ing\.|"
    r"[Hh]eer|[Mm]eneer|[Mm]evrouw|[Mm]evr\.|[Mm]w\.|[Dd]hr\.|[Jj]uffrouw|[Ss]enhora?|Doutora?|Exm[oa]\.|Dona|"
    r"Pani(?:e|ą)?|Pan[au]|[Гг]осподин[уа]?|[Гг]оспож[аеу]|[Гг]-н[уа]?|[Гг]-ж[аеу]|[Гг]раждан(?:ин|ка)|"
    r"[Тт]оварищ|[Дд]октор|[Пп]рофессор)"
)
_DEGREE = r"(?:(?:Dr|Prof|Doktor|Professor|Dipl\.-Ing|Ing|Mag|med|dr|inż|prof|mgr|hab)\b\.?[ ]){0,3}"
_FOR = r"(?:(?:i\.[ ]?[AV]\.|ppa\.|gez\.|p\.[ ]?o\.)[ ])?"
"""Who signs for another."""
_POLISH = (
    r"[A-ZŁŚŻŹĆ][a-ząćęłńóśźż]{1,20}"
    r"(?:(?:sk|ck|dzk)(?:i|a|iego|iemu|im|iej|ą)|wicz(?:a|owi|em)?)"
)
_GREETING = with_loose_accents(
    r"(?:[Ss]ehr (?:geehrter?|verehrter?)|(?:[Mm]ein )?[Ll]ieber?|[Hh]allo|[Gg]uten (?:Tag|Morgen|Abend)|[Mm]oin|"
    r"[Ss]ervus|[Gg]rüezi|[Cc]h(?:er|ère)|[Bb]onjour|[Bb]onsoir|[Ss]alut|[Ee]stimad[oa]|[Aa]preciad[oa]|[Qq]uerid[oa]|"
    r"[Hh]ola|[Bb]uenos días|[Bb]uenas (?:tardes|noches)|[Gg]entile|[Gg]entilissim[oa]|[Ee]gregi[oa]|[Cc]ar[oa]|"
    r"[Cc]iao|[Bb]uongiorno|[Bb]uonasera|[Ss]alve|[Ss]pettabile|[Gg]eachte|[Bb]este(?=[^,\n]{2,40},?[ ]?(?:\n|"
    r"$))|[Ll]ieve|[Hh]oi|[Gg]oedemorgen|"
    r"[Gg]oedemiddag|[Gg]oedenavond|[Pp]rezad[oa]|[Ee]stimad[oa]|[Oo]lá|[Bb]om dia|[Bb]oa (?:tarde|noite)|"
    r"[Ss]zanown[ya]|[Dd]rog[ia]|[Cc]ześć|[Ww]itaj|[Dd]zień dobry|"
    r"(?:[Мм]ного)?[Уу]важаем(?:ый|ая|ые)|[Дд]орог(?:ой|ая)|[Зз]дравствуйте|[Пп]ривет|[Дд]обрый (?:день|вечер)|"
    r"[Дд]оброе утро)"
)
_CLOSING = with_loose_accents(
    r"(?:[Mm]it (?:den )?(?:freundlich|best|herzlich|lieb|viel|sonnig)en Gr(?:ü|ue)(?:ß|ss)en|[Mm]it freundlichem "
    r"Gru(?:ß|ss)|(?:[Vv]iele|[Ll]iebe|[Bb]este|[Hh]erzliche|[Ss]chöne|[Ff]reundliche) Gr(?:ü|ue)(?:ß|ss)e|MfG|"
    r"[Hh]ochachtungsvoll|[Dd]anke(?: im Voraus| schön)?(?=[ ]?[,!.])|[Vv]ielen Dank(?: im Voraus)?|"
    r"(?:[Bb]ien |[Tt]rès )?[Cc]ordialement|[Bb]ien à vous|(?:[Mm]eilleures |"
    r"[Cc]ordiales )?[Ss]alutations(?: distinguées)?|"
    r"[Aa]micalement|[Ss]incèrement|[Rr]espectueusement|[Mm]erci(?: d'avance| beaucoup)?(?=[ ]?[,!.])|[Bb]onne journée|"
    r"(?:[Uu]n )?(?:[Cc]ordial(?:es)? )?[Ss]aludos?(?: cordial(?:es)?)?|(?:[Mm]uy )?[Aa]tentamente|[Cc]ordialmente|"
    r"[Uu]n abrazo|(?:[Mm]uchas )?[Gg]racias(?: de antemano)?(?=[ ]?[,!.])|"
    r"(?:[Cc]ordiali |[Dd]istinti |[Mm]igliori |[Tt]anti )?[Ss]aluti|[Uu]n (?:cordiale )?saluto|[Ii]n fede|"
    r"[Gg]razie(?: mille)?(?=[ ]?[,!.])|[Uu]n abbraccio|"
    r"(?:[Mm]et )?(?:[Vv]riendelijke|[Hh]artelijke) groet(?:en)?|[Mm]vg|[Hh]oogachtend|[Gg]roet(?:jes|en)|"
    r"[Bb]edankt(?=[ ]?[,!.])|"
    r"[Aa]tenciosamente|[Aa]tentamente|(?:[Cc]om (?:os )?)?(?:[Mm]elhores )?[Cc]umprimentos|(?:[Uu]m )?[Aa]braços?|"
    r"(?:[Mm]uito )?[Oo]brigad[oa](?=[ ]?[,!.])|"
    r"[Zz] poważaniem|[Zz] wyrazami szacunku|(?:[Ss]erdecznie )?[Pp]ozdrawiam(?: serdecznie)?|[Pp]ozdrowienia|"
    r"[Dd]ziękuję(?=[ ]?[,!.])|[Сс] уважением|[Сс] наилучшими пожеланиями|[Ии]скренне [Вв]аш[а]?|"
    r"[Сс]пасибо(?=[ ]?[,!.])|[Сс] благодарностью)"
)
_ANYONE = re.compile(
    with_loose_accents(
        r"(?:(?:Das|Der|Die|Les?|La|L|El|Los|Las|Il|Lo|Gli|De|Het|Een|O|A|Os|As)[ '’])?"
        r"(?:Damen|Herr(?:n|en|schaften)?|Frau(?:en)?|Dame|Koll?eg\w*|Kund\w*|Team\w*|Welt|Leser\w*|Eltern|Freund\w*|"
        r"Mitglied\w*|Nutzer\w*|Bewerber\w*|G(?:a|ä)st\w*|Schüler\w*|Studierende\w*|Mitarbeit\w*|Nachbar\w*|"
        r"Mama|Papa|Oma|"
        r"Opa|Redaktion|Geschäftsführung|Verwaltung|Alle|Zusammen|Doktor\w*|Professor\w*|Präsident\w*|"
        r"Minister\w*|Direktor\w*|Bürgermeister\w*|Pfarrer\w*|"
        r"Patient\w*|Grüße|Dein\w*|Ihr\w*|Euer|Eure|Von|Im|Abteilung|Ober|Richter\w*|Kanzler\w*|"
        r"Vorsitzende\w*|Kunden\w+|Vertrieb|Support\w*|"
        r"Monsieur|Madame|Mesdames|Messieurs|Mademoiselle|Client\w*|Collègue\w*|Ami\w*|Docteur|Maître|Monde|"
        r"Tous|Toutes|"
        r"Votre|Notre|Service\w*|Équipe|Direction|Direct(?:eur|rice)|Adhérent\w*|Abonné\w*|Lecteur\w*|Parents?|Président\w*|"
        r"Señor\w*|Sr|Sra|Amig\w*|Compañer\w*|Colega\w*|Mundo|Todos|Todas|Usuari[oa]s?|Lector\w*|Doctor\w*|"
        r"Juez\w*|President\w*|Alcald\w*|Profesor\w*|"
        r"Su|Nuestr\w*|Equipo|Dirección|Servicio|Director\w*|Soci[oa]s?|Paciente\w*|Alumn\w*|"
        r"Signor\w*|Dottor\w*|Avvocato|Ingegner\w*|Collegh\w*|Mondo|Tutt[ie]|Amic\w*|Utent\w*|Vostr\w*|"
        r"Spett\w*|Socio|Heer|Heren|Dames|Mevrouw|Meneer|Klant\w*|Collega\w*|Vriend\w*|Allemaal|Lezer\w*|Bewoner\w*|"
        r"Uw|Ouder\w*|Iedereen|Wereld|Leden|Senhor\w*|Doutor\w*|Usuári[oa]s?|"
        r"Nosso|Nossa|Equipe|Equipa|Atendimento|Leitor\w*|"
        r"Pan(?:ie|owie|i|ią|a|u|em)?|Państw\w*|Klien\w*|Koleżank\w*|Koledz\w*|Koleg\w*|Świecie|Wszystk\w*|"
        r"Zespół|Redakcja|"
        r"Użytkowni\w*|Dział\w*|Redaktor\w*|Prezes\w*|Boga|Boże|Premier\w*|Doktorze|Profesorze|Dyrektor\w*|"
        r"Rodzic\w*|Przyjaciel\w*|"
        r"Клиент\w*|Покупател\w*|Пользовател\w*|Коллег\w*|Друз\w*|Друг|Партн[её]р\w*|Заказчик\w*|Абонент\w*|Читател\w*|"
        r"Гост\w*|Мир|Господа|Господин|Госпожа|Пациент\w*|Студент\w*|Родител\w*|Сотрудник\w*|Жител\w*|Пассажир\w*|"
        r"Участник\w*|Председател\w*|Президент\w*|Директор\w*|Министр\w*|Ваш\w*|Наш\w*|Служба|Команда|"
        r"Администрация|Редакци\w*|"
        r"Отдел\w*|Мы|Я|Все|Доктор|Профессор|За|Как|Что|Вам)(?![^\W_])"
    ),
    re.IGNORECASE,
)


def _names_one(value: str) -> bool:
    """No word that addresses anyone, nor the name of an office."""
    return not is_generic(value) and _ANYONE.match(value.strip()) is None


def salutation_rules() -> list[Rule]:
    """A person behind a title, a greeting or a sign-off."""
    name = rf"(?P<v>{NOT_NAMES}(?!der[ ]){PARTICLE}{{0,2}}{FULL})"
    stops = rf"(?=[ ]*(?:[,!.:;\n-]|$)|{OTHER})"
    named = rf"(?=[ ]*(?:[\n,.|(]|$)|{OTHER})"
    start = rf"(?:^|[\n.!?\"'(][ ]*|{OTHER})"

    def person(pattern: str, score: float) -> Rule:
        return Rule("PERSON", compile_latin(pattern), score, accept=_names_one)

    return [
        person(rf"(?<!\w){_TITLE}[ ]{_DEGREE}{name}", 0.8),
        person(rf"(?<!\w)Pan[ ](?P<v>(?:[A-ZŁŚŻŹĆ][a-ząćęłńóśźż]{{1,20}}[ ])?(?:{_POLISH}))(?!\w)", 0.7),
        person(rf"(?<!\w)(?:[Cc]her|[Bb]onjour|de|à|par|avec|pour|que|et|chez)[ ]M\.[ ]{name}", 0.75),
        person(rf"{start}{_GREETING},?[ ](?:{_TITLE}[ ])?{_DEGREE}{name}{stops}", 0.75),
        person(rf"(?<!\w){_CLOSING}[ ]*[,.!-]?[ ]*\n[ \n]{{0,8}}[-–—~]?[ ]{{0,2}}{_FOR}{_DEGREE}{name}{named}", 0.75),
        person(rf"(?<!\w){_CLOSING},[ ]{{1,2}}{name}[ ]{{0,2}}\.?[ ]{{0,2}}(?=\n|$)", 0.7),
    ]
