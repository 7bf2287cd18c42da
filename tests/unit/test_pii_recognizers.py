"""Labelled cases for every recognizer: what must be found whole, and what must be left alone."""

import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer, checksums
from ftlib.text.pii.analyzer import build_recognizers
from ftlib.text.pii.prefilter import Prefilter


@pytest.fixture(scope="module")
def fast() -> PiiAnalyzer:
    return PiiAnalyzer(PiiConfig(profile="fast"))


def found(analyzer: PiiAnalyzer, text: str) -> dict[str, str]:
    return {text[item.start : item.end]: item.entity for item in analyzer.analyze([text])[0]}


POSITIVE = [
    ("EMAIL_ADDRESS", "mail <anna.b+x@mail.example.co.uk> now", "anna.b+x@mail.example.co.uk"),
    ("EMAIL_ADDRESS", "ops@intranet.local is ours", "ops@intranet.local"),
    ("EMAIL_ADDRESS", "write to jane [at] example [dot] org please", "jane [at] example [dot] org"),
    ("URL", "see https://example.com/u/1?x=2, then", "https://example.com/u/1?x=2"),
    ("URL", "see www.example.hu today", "www.example.hu"),
    ("URL", "on portal.example.com/me it fails", "portal.example.com/me"),
    ("IP_ADDRESS", "from 203.0.113.7 today", "203.0.113.7"),
    ("IP_ADDRESS", "from 2001:db8::8a2e:370:7334 today", "2001:db8::8a2e:370:7334"),
    ("MAC_ADDRESS", "nic 00:1A:2b:3C:4D:5E up", "00:1A:2b:3C:4D:5E"),
    ("MAC_ADDRESS", "nic 001a.2b3c.4d5e up", "001a.2b3c.4d5e"),
    ("PHONE_NUMBER", "it is +44 20 7946 0958 here", "+44 20 7946 0958"),
    ("PHONE_NUMBER", "(212) 555-0188 x42", "(212) 555-0188 x42"),
    ("PHONE_NUMBER", "call me at 555 0188 please", "555 0188"),
    ("PHONE_NUMBER", "tel 089 72 63 41", "089 72 63 41"),
    ("US_SSN", "SSN 316-46-8416.", "316-46-8416"),
    ("US_SSN", "social security number is 316468416.", "316468416"),
    ("CREDIT_CARD", "paid with 4111 1111 1111 1111 today", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "amex 378282246310005 it was", "378282246310005"),
    ("CREDIT_CARD", "1234: 4000-0000-0003-2190", "4000-0000-0003-2190"),
    ("IBAN_CODE", "to GB29 NWBK 6016 1331 9268 19 please", "GB29 NWBK 6016 1331 9268 19"),
    ("IBAN_CODE", "to DE89370400440532013000 please", "DE89370400440532013000"),
    ("TAX_ID", "EIN 12-3456789", "12-3456789"),
    ("VIN", "a car, 1HGBH41JXMN109186, red", "1HGBH41JXMN109186"),
    ("CRYPTO", "wallet 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa ok", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    ("DEVICE_ID", "id AEBE52E7-03EE-455A-B3C4-E57283966239.", "AEBE52E7-03EE-455A-B3C4-E57283966239"),
    ("NATIONAL_ID", "NINO QQ 12 34 56 C? no: AB 12 34 56 C", "AB 12 34 56 C"),
    ("NATIONAL_ID", "NIF 12345678Z in Spain", "12345678Z"),
    ("COORDINATES", "at 40.7128° N, 74.0060° W now", "40.7128° N, 74.0060° W"),
    ("CASE_NUMBER", "in 2:19-cv-01234-ABC the court", "2:19-cv-01234-ABC"),
    ("CASE_NUMBER", "Docket No. 21-10234", "21-10234"),
    ("MEDICAL_RECORD_NUMBER", "MRN: 8084988", "8084988"),
    ("MEDICAL_RECORD_NUMBER", "patient id is PT-20391", "PT-20391"),
    ("INSURANCE_ID", "my policy number is QX-1123-88", "QX-1123-88"),
    ("INSURANCE_ID", "Member ID W2233 44556", "W2233"),
    ("ACCOUNT_NUMBER", "account no. 0012-345678", "0012-345678"),
    ("ACCOUNT_NUMBER", '{"account_number": "7816255887"}', "7816255887"),
    ("EMPLOYEE_ID", "employee number E-10442", "E-10442"),
    ("DRIVER_LICENSE", "driver's license: D123-4567-8901", "D123-4567-8901"),
    ("PASSPORT", "passport number is X4829175", "X4829175"),
    ("LICENSE_PLATE", "My license plate is KRM 2200.", "KRM 2200"),
    ("MEDICAL_LICENSE", "signed AB1234563 there", "AB1234563"),
    ("MEDICAL_LICENSE", "DEA MW8642165 signed", "MW8642165"),
    ("MEDICAL_LICENSE", "NPI: 1708008839", "1708008839"),
    ("ID_NUMBER", "see ORD-20391 and more", "ORD-20391"),
    ("USERNAME", "my username is jsmith42, hello", "jsmith42"),
    ("USERNAME", '"db_user": "raymondharris416",', "raymondharris416"),
    ("USERNAME", "CREATE USER 'sys_9999'@'10.0.0.1'", "sys_9999"),
    ("PASSWORD", "password: correct-horse9", "correct-horse9"),
    ("PASSWORD", "IDENTIFIED BY 'cMqozHc6K5T';", "cMqozHc6K5T"),
    ("PASSWORD", 'dbPass: "gKPXAWrX",', "gKPXAWrX"),
    ("PASSWORD", "the PIN is 4821", "4821"),
    ("API_KEY", "key sk-90MFawNmLrCakGKrR0OE2CvEUfDkCD08 leaked", "sk-90MFawNmLrCakGKrR0OE2CvEUfDkCD08"),
    ("API_KEY", "AKIAIOSFODNN7EXAMPLE it is", "AKIAIOSFODNN7EXAMPLE"),
    ("API_KEY", "Authorization: Bearer eyJhbGciOi.J9eyJzdWIi.Ox3fSf_ab", "eyJhbGciOi.J9eyJzdWIi.Ox3fSf_ab"),
    ("API_KEY", "I used the key 3a131b24e8758d623b8f3c64c53771f5.", "3a131b24e8758d623b8f3c64c53771f5"),
    ("DATE_OF_BIRTH", "DOB: 1985-04-28", "1985-04-28"),
    ("DATE_TIME", "at 2026-05-25T00:47:00Z it", "2026-05-25T00:47:00Z"),
    ("DATE_TIME", "on March 3rd, 2021 we", "March 3rd, 2021"),
    ("DATE_TIME", "on 14 November 1998 we", "14 November 1998"),
    ("AGE", "a 93-year-old man", "93"),
    ("STREET_ADDRESS", "at 12 Oak Street, Springfield, IL 62701 now", "12 Oak Street, Springfield, IL 62701"),
    ("STREET_ADDRESS", "to 4589 40th Avenue Suite 603, Calgary", "4589 40th Avenue Suite 603, Calgary"),
    ("STREET_ADDRESS", "er wohnt Hauptstraße 5, Berlin", "Hauptstraße 5, Berlin"),
    ("STREET_ADDRESS", "my address is 19 Via Roma\nMilano", "19 Via Roma\nMilano"),
    ("STREET_ADDRESS", "PO Box 1182 is mine", "PO Box 1182"),
    ("ZIP_CODE", "my zip code is 62701.", "62701"),
    ("PERSON", "Dr. Okonkwo-Reyes saw me", "Dr. Okonkwo-Reyes"),
    ("PERSON", "Thanks,\nZbigniew Wrona", "Zbigniew Wrona"),
    ("PERSON", "Patient: Xochitl Quispe Mamani", "Xochitl Quispe Mamani"),
    ("PERSON", "Emily Rodriguez called", "Emily Rodriguez"),
    ("ORGANIZATION", "with Hartwell & Boyd LLP in town", "Hartwell & Boyd LLP"),
    ("LOCATION", "moving to New Zealand soon", "New Zealand"),
    ("PERSON", "signed by General Hospitaller today", "General Hospitaller"),
    ("ORGANIZATION", "admitted to Mercy General Hospital today", "Mercy General Hospital"),
]


@pytest.mark.parametrize(("entity", "text", "value"), POSITIVE, ids=[f"{e}-{v[:14]}" for e, _, v in POSITIVE])
def test_finds_value_whole_with_its_type(fast, entity, text, value):
    assert found(fast, text).get(value) == entity


NEGATIVE = [
    "Please reset my password, it is not working.",
    "I forgot my password and the login page shows an error.",
    "version 10.2.3.4 of the app",
    "It costs $1,299.00 and weighs 12 kg.",
    "ISO-27001 and RFC-2616 and CVE-2021-44228 apply.",
    "The invoice for my premium plan shows $178.99 more than agreed.",
    "Two or three days are okay.",
    "We met yesterday, two weeks after the launch in 2019.",
    "He is 42 years old.",
    "The error code E28 appears at 10:45.",
    "Add 3 large eggs and drive 20 miles.",
    "Take your time with this, whenever it suits you is fine.",
    "The account was locked after 7 tries.",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "The ratio is 1234567.891 and rising by 12.5%.",
    "Order of operations: 1, 2, 3.",
    "Shift: 0700-1900 on the ward.",
    "OUTPATIENT VISIT NOTE",
    "ATTORNEY OF RECORD",
    "Referred to General Surgery at the University Hospital and a Community Health Center.",
    "",
    "   \n\t",
]


def test_what_the_prefilter_leaves_out_would_find_nothing():
    """Also in texts whose characters stand as others of their kind, and in forms that Presidio's recognizers take."""
    national = ["2345 6789 0124 and", "a 12345678Z x", "X1234567L", "RSSMRA85T10A562S", "S1234567D", "1EG4-TE5-MK73",
                "900101-1234567", "131052-308T", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"]  # fmt: skip
    texts = [*(text for _, text, _ in POSITIVE), *NEGATIVE, *national]
    beyond_ascii = str.maketrans("e' 4", "é’\u00a0\u0664")
    texts += [*(text.translate(beyond_ascii) for text in texts), *(text.upper() for text in texts)]
    expressions = [
        pattern for recognizer in build_recognizers() for _, pattern in getattr(recognizer, "expressions", ())
    ]
    prefilter = Prefilter(expressions)
    sparing = 0
    for text in texts:
        candidates = set(prefilter.candidates(text))
        matching = {number for number, pattern in enumerate(expressions) if pattern.search(text)}
        assert matching <= candidates, (text, [expressions[n].pattern[:80] for n in matching - candidates])
        sparing += len(candidates) < len(expressions) / 4
    assert sparing > 0.9 * len(texts)


@pytest.mark.parametrize("text", NEGATIVE)
def test_leaves_plain_text_alone(fast, text):
    assert found(fast, text) == {}


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (checksums.card, "4111111111111111"),
        (checksums.iban, "GB29NWBK60161331926819"),
        (checksums.aba_routing, "021000021"),
    ],
)
def test_checksum_refuses_every_single_digit_error(check, good):
    assert check(good)
    for place, character in enumerate(good):
        if character.isdecimal():
            for digit in set("0123456789") - {character}:
                assert not check(good[:place] + digit + good[place + 1 :]), (place, digit)


def test_vin_and_dea_check_digits():
    assert checksums.vin("1HGBH41JXMN109186")
    assert not checksums.vin("1HGBH41J1MN109186")
    assert not checksums.vin("1HGBH41JXMN10918O")
    assert checksums.dea("AB1234563")
    assert not checksums.dea("AB1234564")


def test_check_digits_complete_numbers():
    assert checksums.luhn("7992739871" + checksums.luhn_check_digit("7992739871"))
    assert checksums.iban_check_digits("GB", "NWBK60161331926819") == "29"
