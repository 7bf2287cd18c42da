"""Names beside titles, greetings and sign-offs in many languages, secrets of command lines, and what resembles them."""

import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer
from ftlib.text.pii.analyzer import build_recognizers


@pytest.fixture(scope="module")
def fast() -> PiiAnalyzer:
    return PiiAnalyzer(PiiConfig(profile="fast"))


def left(analyzer: PiiAnalyzer, text: str, entity: str) -> str:
    """The text without what is found of a type."""
    for item in reversed(analyzer.analyze([text])[0]):
        if item.entity == entity:
            text = text[: item.start] + text[item.end :]
    return text


NAMED = [
    ("Sehr geehrter Herr Vogelsang,", "Vogelsang"),
    ("Sehr geehrter Herr Dr. Vogelsang,", "Vogelsang"),
    ("Bitte an Herrn Öztürk weiterleiten.", "Öztürk"),
    ("Liebe Tjorven,\nes geht los.", "Tjorven"),
    ("Mit freundlichen Grüßen\nTjorven Ükermann", "Ükermann"),
    ("Mit freundlichen Gruessen,\n\ni. A. Tjorven Ükermann", "Ükermann"),
    ("Cher Monsieur Dupont,", "Dupont"),
    ("Bonjour Mme Quéré,", "Quéré"),
    ("Bonjour Maëlys,", "Maëlys"),
    ("Bien cordialement,\nMaëlys Quéré", "Quéré"),
    ("Estimado Sr. García:", "García"),
    ("Hola Iker,", "Iker"),
    ("Saludos cordiales,\nIker Zubizarreta", "Zubizarreta"),
    ("Gentile Sig.ra Rossi,", "Rossi"),
    ("Gentile Dott.ssa Brambilla,", "Brambilla"),
    ("Distinti saluti\nGiosuè Brambilla", "Brambilla"),
    ("Geachte heer De Vries,", "De Vries"),
    ("Geachte mevrouw van den Berg,", "van den Berg"),
    ("Met vriendelijke groet,\nSjoerd Hoekstra", "Hoekstra"),
    ("Prezado Sr. Gusmão,", "Gusmão"),
    ("Atenciosamente,\nThaís Gusmão", "Gusmão"),
    ("Szanowny Panie Kowalski,", "Kowalski"),
    ("Szanowna Pani Wiśniewska,", "Wiśniewska"),
    ("Z poważaniem,\nZdzisław Grzęda", "Grzęda"),
    ("Уважаемый Иван Петров!", "Петров"),
    ("Уважаемая госпожа Петрова!", "Петрова"),
    ("С уважением,\nАрсений Кузьмин", "Кузьмин"),
    ("王先生您好", "王"),
    ("张伟女士，您好", "张伟"),
    ("尊敬的王小明：", "王小明"),
    ("此致\n敬礼！\n王小明", "王小明"),
    ("田中様、お世話になっております。", "田中"),
    ("鈴木一郎さんに聞きました", "鈴木一郎"),
    ("スミス様", "スミス"),
    ("よろしくお願いいたします。\n佐藤花子", "佐藤花子"),
    ("김민수 님, 안녕하세요", "김민수"),
    ("김민수님께", "김민수"),
    ("김민수 씨께", "김민수"),
    ("감사합니다.\n최수진", "최수진"),
    ("이영희 드림", "이영희"),
    ("السيد أحمد حسن", "أحمد حسن"),
    ("عزيزي محمد،", "محمد"),
    ("مع خالص التحيات،\nأحمد حسن", "أحمد حسن"),
]


@pytest.mark.parametrize(("text", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_name_beside_a_salutation_is_found(fast, text, name):
    assert name not in left(fast, text, "PERSON")


@pytest.mark.parametrize(
    "text",
    [
        "Sehr geehrte Damen und Herren,", "Liebe Kolleginnen und Kollegen,", "Hallo Zusammen,", "Hallo Welt",
        "Mit freundlichen Grüßen\nIhr Kundenservice", "Viele Grüße\nDas Team", "Sehr geehrte Gäste,",
        "Madame, Monsieur,", "Bonjour Madame,", "Chers amis,", "Cordialement,\nL'équipe Support",
        "Estimado cliente,", "Estimado Cliente,", "Hola Mundo", "Saludos,\nEl Equipo de Soporte",
        "Gentile Cliente,", "Beste Klant,", "Geachte heer, mevrouw,", "Prezado Cliente,", "Prezados Senhores,",
        "Szanowni Państwo,", "Szanowny Panie,", "Pan American flights", "Уважаемый Клиент!", "Уважаемые коллеги!",
        "С уважением,\nВаша Команда", "尊敬的客户：", "先生", "先生，您好", "许多先生来了",
        "任何老师都可以", "提高老师待遇", "お客様", "お客様各位", "皆様", "会員様限定", "看護師さん", "神様 王様 奥様",
        "仕様と模様は同様に多様です", "ユーザー様", "고객님 안녕하세요", "선생님께", "회원님 여러분", "날씨가 좋다",
        "글씨를 씁니다", "담당자님", "제공해 드림",
        "Sehr geehrte Frau Kollegin,", "Herr Ober, die Rechnung bitte.", "Danke\nNächster Schritt", "株主様",
        "新郎新婦様",
        "周同学习很好", "مرحبا بكم", "السيدة الأولى", "السيد المدير", "عزيزي العميل،", "السيد الرئيس",
    ],
)  # fmt: skip
def test_a_salutation_of_anyone_stays(fast, text):
    assert left(fast, text, "PERSON") == text


SECRETS = [
    ("mysql -u root -pSECRET", "SECRET"),
    ("mysqldump -uroot -p'Sun!shine 2' shop > out.sql", "Sun!shine 2"),
    ("sshpass -pKk9xyz ssh a@b", "Kk9xyz"),
    ("sshpass -p 'SECRET' ssh a@b", "SECRET"),
    ("docker login -u x -p hunter22 registry", "hunter22"),
    ("redis-cli -h cache -a sesame ping", "sesame"),
    ("PGPASSWORD=SECRET psql shop", "SECRET"),
    ('export MYSQL_PWD="hunter two"', "hunter two"),
    ("tool --password SECRET --verbose", "SECRET"),
    ("tool --passphrase=sesame", "sesame"),
    ("login jroe/Kk9!xyz12", "Kk9!xyz12"),
    ("Please log in with jroe / Kk9!xyz12.", "Kk9!xyz12"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=[secret for _, secret in SECRETS])
def test_a_secret_of_a_command_line_is_found(fast, text, secret):
    assert secret not in left(fast, text, "PASSWORD")


@pytest.mark.parametrize(
    "text",
    [
        "mysql -h db -u root -p shop", "mysqldump -u root -p$DB_PASS shop", "docker run -p 8080:80 nginx",
        "PGPASSWORD=$SECRET psql", "tool --password-file /run/pw", "The --password option is required.",
        "see login docs/v2.1 now", "login page/step2", "open login src/auth2.ts", "sshpass -p '<password>' ssh a@b",
    ],
)  # fmt: skip
def test_a_command_without_a_secret_stays(fast, text):
    assert left(fast, text, "PASSWORD") == text


@pytest.mark.parametrize(
    "text",
    [
        "Install KB5034441 now", "Model XJ-9000-B is great", "The XJ-9000-B printer jams.", "Trial NCT01234567 ended.",
        "Page Size", "Set the Page Size to A4.", "Choose Austin Theme in the menu", "Page Layout, Mark Complete",
        "Grant Permissions", "The Page Header and the Dale Theme",
    ],
)  # fmt: skip
def test_names_of_things_stay(fast, text):
    assert fast.analyze([text])[0] == []


@pytest.mark.parametrize(
    ("entity", "text", "value"),
    [
        ("ID_NUMBER", "Ticket XJ-9000-B is open", "XJ-9000-B"),
        ("ID_NUMBER", "see AB5034441 now", "AB5034441"),
        ("PERSON", "I met Austin Powers", "Austin Powers"),
        ("PERSON", "It was Page Whitmore", "Page Whitmore"),
    ],
)
def test_what_is_personal_beside_them_is_found(fast, entity, text, value):
    assert value not in left(fast, text, entity)


@pytest.mark.parametrize(
    "unit",
    ["mysql ", "mysql -u a ", "mongo -p", "login a/", "login ", "PASS=", "A_", "王", "高", "田中", "ス", "김", "أحمد ",
     "السيد ", "Herr ", "Dr. ", "van ", "Sehr geehrter Herr ", "Grüße\n", "MfG\n ", "敬具\n", "KB5", "XJ-9000-"],
)  # fmt: skip
def test_hostile_repeats_end(unit):
    names = {"SalutationRecognizer", "CredentialRecognizer", "IdentifierShapeRecognizer"}
    rules = [rule for recognizer in build_recognizers() if recognizer.name in names for rule in recognizer.rules]
    text = unit * (20_000 // len(unit))
    for rule in rules:
        assert all(0 <= item.start < item.end <= len(text) for item in rule.find(text))
