"""Redaction of structure: values with their keys, keys, labels, JSON in text, tool calls; the JSON stays valid."""

import json
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import MixConfig, PiiConfig
from ftlib.data import schema as s
from ftlib.data.facts import count_processed
from ftlib.data.inputs import InputFile
from ftlib.data.redact import FAILED, NO_NER, NameScanner, Redactor, store_labels
from ftlib.data.residual import scan_tables
from ftlib.data.scanned import fields_of
from ftlib.data.source_names import SourceNames
from ftlib.text.json_text import is_json, leaves, pointer

KEY = b"0123456789abcdef"
FAST = PiiConfig(profile="fast")
REDACTORS = {}


def record(**values):
    base = dict.fromkeys(s.READ.names) | {s.ROW: 1, s.ID: "r1", s.DERIVED: True, s.SOURCE: "a.jsonl", s.METADATA: "{}"}
    return base | values


def message(role, content, **more):
    return dict.fromkeys([field.name for field in s.MESSAGE_TYPE]) | {"role": role, "content": content} | more


def processed(records, **config):
    name = json.dumps(config, sort_keys=True)
    if name not in REDACTORS:
        REDACTORS[name] = Redactor(PiiConfig(**({"profile": "fast"} | config)), KEY)
    return REDACTORS[name](pa.Table.from_pylist(records, schema=s.READ))


def redact(*records, **config):
    return processed(list(records), **config).to_pylist()


# What an export of a help desk holds: nine values that only their key, or their place as a key, gives away.
TICKET = {
    "customer_name": "Brandstetter", "agent": "Ranjit Brandstetter", "phone": "555-0148", "zip": "24103",
    "sort_code": "60-83-71", "employee_id": "4417", "password": "Sonne2024x", "pin": "4711", "mrn": "8084988",
    "petra@firma-beispiel.de": 3, "by_client": {"Petra Brandstetter": {"n": 2}},
}  # fmt: skip
PRIVATE = [
    "Brandstetter", "Ranjit", "555-0148", "24103", "60-83-71", "4417", "Sonne2024x", "4711", "8084988",
    "petra@firma-beispiel.de", "Petra",
]  # fmt: skip


def call(arguments):
    function = {"name": "lookup", "arguments": arguments}
    return message("assistant", None, tool_calls=[{"id": "call_1", "type": "function", "function": function}])


FORMS = {
    "metadata": lambda text: record(text="The lamp is broken.", metadata=text),
    "text": lambda text: record(text=text),
    "fenced": lambda text: record(text=f"Here it is:\n```json\n{text}\n```\nThanks."),
    "answer": lambda text: record(messages=[message("user", "Show it"), message("assistant", text)]),
    "tool result": lambda text: record(messages=[message("tool", text, tool_call_id="call_1")]),
    "arguments": lambda text: record(messages=[call(text)]),
    "reasoning": lambda text: record(messages=[message("assistant", "Done.", reasoning_content=f"I have {text}")]),
    "inside a value": lambda text: record(text="a", metadata=json.dumps({"result": {"text": text}})),
    "twice inside": lambda text: record(
        messages=[message("tool", json.dumps([{"type": "text", "text": f"Found: {text}"}]), tool_call_id="call_1")]
    ),
    "rejected": lambda text: record(messages=[message("user", "Show it")], rejected=text),
}


@pytest.mark.parametrize("profile", ["fast", "enterprise"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_value_is_found_with_its_key_in_every_form(form, indent, profile):
    (row,) = redact(FORMS[form](json.dumps(TICKET, indent=indent)), profile=profile)
    shown = json.dumps(row, ensure_ascii=False, default=str)
    assert row[s.ERROR] is None
    assert [value for value in PRIVATE if re.search(rf"\b{re.escape(value)}\b", shown)] == []
    assert "lookup" in shown or form != "arguments"


@pytest.mark.parametrize("form", ["metadata", "text", "arguments"])
def test_numbers_short_and_long_are_replaced_under_a_telling_key_alone(form):
    text = json.dumps({"pin": 4711, "mrn": 8084988, "order": {"zip": 24103}, "n": 4711, "year": 2024, "score": 0.4711})
    (row,) = redact(FORMS[form](text))
    holder = row[s.METADATA] if form == "metadata" else row[s.TEXT]
    holder = row[s.MESSAGES][0]["tool_calls"][0]["function"]["arguments"] if form == "arguments" else holder
    value = json.loads(holder)
    assert (value["n"], value["year"], value["score"]) == (4711, 2024, 0.4711)
    assert value["pin"] == "[REDACTED_PASSWORD]" and value["mrn"] == "[REDACTED_MEDICAL_RECORD_NUMBER]"
    assert value["order"]["zip"] == "[REDACTED_ZIP_CODE]"


@pytest.mark.parametrize(
    "data",
    [
        {"name": "get_weather", "title": "Card arrival", "status": "open", "priority": 3, "tags": ["billing", "late"]},
        {"user": "How do I reset it?", "assistant": "Press the button."},
        {
            "product_name": "Desk Lamp",
            "file_name": "Report Final.docx",
            "company": "n/a",
            "password": None,
            "pin": False,
        },
        {"created": 1, "version": "1.2.3", "language": "en", "agent": "billing", "client": "web", "user": "unknown"},
    ],
)
def test_ordinary_values_stay(data):
    (row,) = redact(record(text="x", metadata=json.dumps(data)))
    assert json.loads(row[s.METADATA]) == data


def test_keys_with_a_person_are_hashed_alike_everywhere_and_the_pointer_names_nobody():
    mail, name = "john.doe@example.com", "Jane Smith 4111111111111111"
    data = {mail: {"phone": "212-555-0187"}, "078-05-1120": 1, name: {"x": {"maria@example.org": "ok"}}}
    first, second = redact(
        record(text="a", metadata=json.dumps(data)), record(text="b", metadata=json.dumps({mail: 2}))
    )
    keys = list(json.loads(first[s.METADATA]))
    assert all(re.fullmatch(r"key_[0-9a-f]{24}", key) for key in keys) and len(set(keys)) == 3
    assert list(json.loads(second[s.METADATA])) == keys[:1]
    fields = [finding["field"] for finding in first[s.FINDINGS]]
    assert f"metadata/{keys[0]}/phone" in fields and f"metadata/{keys[0]}#" in fields
    assert not re.search("john|doe|078|Smith|4111|maria", json.dumps(first[s.FINDINGS]))


RECORDS = [
    {"patient": {"name": [{"family": "+Zabriskie", "given": ["+Hannelore", "+Marit"]}], "birthDate": "+1974-12-25",
                 "telecom": [{"system": "phone", "value": "+(03) 5555 6473"}],
                 "address": [{"line": ["+534 Erewhon St"], "city": "+Pleasantville", "postalCode": "+3999"}]}},
    {"customerName": "+Ranjit Zabriskie", "homePhone": "+555-0132", "zipCode": 24103, "employeeNumber": 4417,
     "userPassword": "+Sonne2024x", "PINCode": "+0815", "MRN": 8084988},
    {"nachname": "+Zabriskie", "vorname": "+ranjit", "plz": "+24103", "telefon": "+0431 555013",
     "passwort": "+Sonne2024x", "geburtsdatum": "+3. März 1980", "kundennummer": "+882211"},
    {"姓名": "+王小明", "电话": "+010 8888 7777", "密码": "+abc12345"},
    {"имя": "+Анна", "фамилия": "+Воронцова", "телефон": "+555 01 32"},
    {"nombre": "+Lucía", "apellidos": "+Fernández Ruiz", "contraseña": "+gato2024"},
    {"owner": "+R. Zabriskie", "assignee": {"display_name": "+Zabriskie, Ranjit"}, "reporter_email": "+r.v@firma.de"},
    {"credentials": {"login": "+rzabr", "password": {"value": "+hunter2!"}}, "otp": "+482911", "cvv": 1234},
    {"ssn": "+123456789", "passport_no": "+X4412290", "iban": "+DE89370400440532013000", "tax_id": "+12-3456789"},
    {"attributes": [{"key": "password", "value": "+Sonne2024x"}, {"name": "phone", "value": "+555-0132"}]},
]  # fmt: skip


@pytest.mark.parametrize("data", RECORDS)
def test_keys_of_many_styles_and_languages_tell(data):
    """`+` marks what is private; numbers without quotes are, too."""
    text = json.dumps(data, ensure_ascii=False)
    private = re.findall(r'"\+([^"]+)"', text) + re.findall(r": (\d{4,})", text)
    (row,) = redact(record(text="x", metadata=text.replace('"+', '"')))
    assert private and [value for value in private if value in row[s.METADATA]] == []
    assert json.loads(row[s.METADATA]).keys() == data.keys()


ORDINARY_LABELS = [
    "card_arrival", "Card Arrival", "billing", "Customer Support", "refund_not_showing_up", "Technical Issue", "spam",
    "POSITIVE", "Neutral", "account.closed", "Account Access", "Terms of Service", "Sales", "Berlin", "Germany", "en",
    "Acme Inc", "2024-01-31", "Q3 2024", "5 stars", "Grace Period", "Will Call", "May Release", "Mark Down", "A", "1",
    "C++", "AI/ML", "Human Resources", "summer sale", "Patient Discharge", "Order Status", "42",
]  # fmt: skip


def test_labels_that_name_someone_are_hashed_and_ordinary_ones_are_not():
    rows = redact(*[record(text="a", label=label) for label in ORDINARY_LABELS], profile="enterprise")
    assert [row[s.LABEL] for row in rows] == ORDINARY_LABELS
    people = ["Petra Brandstetter", "john.smith@acme-corp.com", "SSN 078-05-1120", "Maria_Keller", "078-05-1120"]
    rows = redact(*[record(text="a", label=label) for label in [*people, people[0]]])
    stored = [row[s.LABEL] for row in rows]
    assert all(re.fullmatch(r"label_[0-9a-f]{24}", label) for label in stored)
    assert stored[0] == stored[-1] and len(set(stored)) == len(people), "so that the split is stratified as before"
    assert rows[0][s.FINDINGS][0]["field"] == "label"
    from collections import Counter

    (renamed,) = store_labels([Counter({(people[0], "spam"): 3})], FAST, KEY)
    assert renamed == {tuple(sorted([stored[0], "spam"])): 3}


def test_a_participants_name_and_a_tool_calls_id():
    rows = redact(
        record(
            messages=[
                message("user", "hi", name="Hannah_Vogel"),
                call('{"city": "Kiel"}') | {},
                message("tool", "sunny", name="lookup", tool_call_id="call_1"),
            ]
        )
    )
    messages = rows[0][s.MESSAGES]
    assert messages[0]["name"].startswith("name_") and "Vogel" not in json.dumps(rows[0][s.FINDINGS])
    assert messages[1]["tool_calls"][0]["function"]["name"] == messages[2]["name"] == "lookup"
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"] == "call_1"


def test_tool_definitions_are_scanned_and_parameters_stay():
    parameters = {"type": "object", "properties": {"password": {"type": "string"}, "pin": {"type": "integer"}}}
    function = {"name": "mail", "description": "Mail jane.roe@example.com", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    (row,) = redact(record(text="a", tools=json.dumps(tools)))
    assert row[s.TOOLS] == json.dumps(tools).replace("jane.roe@example.com", "[REDACTED_EMAIL_ADDRESS]")
    assert row[s.FINDINGS][0]["field"] == "tools/0/function/description"


def test_arguments_that_are_no_json_are_text():
    (row,) = redact(record(messages=[call("mail=jane.roe@example.com, {broken")]))
    (finding,) = row[s.FINDINGS]
    assert finding["field"] == "messages[0].tool_calls[0].function.arguments" and finding["start"] == 5


PLANTED = st.sampled_from(
    [("password", "Sonne2024x"), ("mail", "jane.roe@example.com"), ("ssn", "078-05-1120"), ("pin", 4711),
     ("note", 'call "Jane" on 212-555-0187\n\\ soon'), ("customer_name", "Brandstetter"),
     ("iban", "DE89370400440532013000")]
)  # fmt: skip
SECRETS = ["Sonne2024x", "jane.roe@example.com", "078-05-1120", "4711", "212-555-0187", "Brandstetter", "DE8937"]
SAFE = st.text(alphabet='abcxyz äß\n"\\/{}[]:,😀漢', max_size=12)


@st.composite
def planted_json(draw):
    value = draw(
        st.recursive(
            SAFE | st.booleans() | st.none() | st.integers(-9, 9),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SAFE, inner, max_size=3),
            max_leaves=8,
        )
    )
    pairs = draw(st.lists(PLANTED, min_size=1, max_size=3))
    for key, secret in pairs:
        value = draw(st.sampled_from([{key: secret, "rest": value}, {"k": [value, {key: secret}]}]))
    return value


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(planted_json(), st.sampled_from(sorted(FORMS)), st.booleans(), st.sampled_from(["token", "surrogate", "mask"]))
def test_json_stays_valid_secrets_go_and_offsets_recover_them(value, form, ascii_only, mode):
    text = json.dumps(value, ensure_ascii=ascii_only)
    before = FORMS[form](text)
    fields = {item.name: item.text for item in fields_of(before)[0]}
    (row,) = redact(FORMS[form](text), replacement=mode)
    assert row[s.ERROR] is None
    after = {item.name: item.text for item in fields_of(row)[0]}
    for name, old in fields.items():
        new = after[name]
        assert is_json(new) or not is_json(old)
        if mode != "surrogate":  # a surrogate may hold any digits
            planted = [secret for secret in SECRETS if secret in old]
            assert [secret for secret in planted if re.search(rf"(?<!\w){re.escape(secret)}", new)] == []
        kinds = [(leaf.path, leaf.kind == "key") for leaf in leaves(old)] if is_json(old) else []
        if is_json(old):
            assert [(leaf.path, leaf.kind == "key") for leaf in leaves(new)] == kinds, "no key was anyone's"
    # What a finding's field names: a value of structured JSON by its pointer, else a whole text.
    named = dict(fields)
    for name, old in fields.items():
        if name.startswith(s.METADATA) or name.endswith("arguments"):
            named |= {name + pointer(leaf.path): leaf.value for leaf in leaves(old) if leaf.kind != "key"}
    assert row[s.FINDINGS]
    originals = {named[item["field"]][item["start"] : item["end"]] for item in row[s.FINDINGS]}
    wanted = {secret for secret in SECRETS[:3] if secret in text}
    assert wanted <= originals | {part for whole in originals for part in wanted if part in whole}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_not_scanned_is_kept_back_in_every_field(monkeypatch, caplog, form):
    from ftlib.text.pii.analyzer import PiiAnalyzer

    original = PiiAnalyzer.analyze

    def fails(self, texts, *rest):
        if any("poison" in text for text in texts):
            raise RuntimeError(f"cannot handle {texts}")
        return original(self, texts, *rest)

    monkeypatch.setattr(PiiAnalyzer, "analyze", fails)
    bad = FORMS[form](json.dumps({"note": "poison", "mail": "jane.roe@example.com"})) | {s.LABEL: "Petra Brandstetter"}
    good, lost = redact(record(text="call 212-555-0187"), bad)
    assert good[s.TEXT] == "call [REDACTED_PHONE_NUMBER]" and good[s.FINDINGS]
    assert lost[s.ERROR] == FAILED and not lost[s.FINDINGS]
    assert {name for name in s.RECORD.names if lost[name] is not None} <= {s.ID, s.SOURCE, s.SUBJECT, s.WEIGHT}
    assert "poison" not in caplog.text


def test_drop_takes_every_field_and_a_key_or_label_is_reason_enough():
    rows = redact(
        record(text="a", label="Petra Brandstetter"),
        record(text="a", metadata=json.dumps({"john.doe@example.com": 1}), tools="[]"),
        replacement="drop",
    )
    for row in rows:
        assert row[s.STAGE] == "redact"
        assert [row[name] for name in (s.TEXT, s.LABEL, s.METADATA, s.TOOLS)] == [None] * 4


FRENCH = "Bonjour, je vous écris parce que la lampe de mon salon ne marche plus et que personne ne répond."
ENGLISH = "Hello, I write to you because the lamp in my living room has not worked for a week and nobody answers."


def test_records_without_ner_are_counted_by_language_and_quarantined_on_demand():
    records = [record(text=FRENCH), record(text=ENGLISH), record(text="Brandstetter"), record(text=FRENCH, row_key=2)]
    table = processed(records, profile="enterprise")
    assert [row[s.NO_NER] for row in table.to_pylist()] == ["fr", None, None, "fr"]
    counts = count_processed(table, __import__("numpy").zeros(4, dtype=int))
    assert counts.no_ner == {"fr": 2} and (counts + counts).no_ner == {"fr": 4}
    required = processed(records, profile="enterprise", require_ner=True).to_pylist()
    assert [row[s.ERROR] for row in required] == [NO_NER, None, None, NO_NER]
    assert required[0][s.TEXT] is None and required[1][s.TEXT] is not None
    assert [row[s.NO_NER] for row in redact(*records)] == [None] * 4, "the profile fast asks for no NER"
    with pytest.raises(ValueError, match="require_ner needs a profile with NER"):
        PiiConfig(profile="fast", require_ner=True)


def test_the_residual_scan_reads_every_column():
    mail = "jane.roe@example.com"
    places = {
        "label": record(text="a", label=mail),
        "source": record(text="a", source=f"{mail}.jsonl"),
        "key": record(text="a", metadata=json.dumps({mail: 1})),
        "value": record(text="a", metadata=json.dumps({"x": [mail]})),
        "arguments": record(messages=[call(json.dumps({"to": mail}))]),
        "reasoning": record(messages=[message("assistant", "ok", reasoning_content=mail)]),
        "name": record(messages=[message("user", "ok", name=mail)]),
        "tools": record(text="a", tools=json.dumps([{"description": mail}])),
    }
    for where, row in places.items():
        left = pa.Table.from_pylist([row | {s.FINDINGS: []}], schema=s.PROCESSED)
        findings, _, num_records, _ = scan_tables([left], FAST)
        assert findings["EMAIL_ADDRESS"] >= 1 and num_records == 1, where
        if where != "source":
            assert scan_tables([processed([row])], FAST)[2] == 0, where


def files(*names):
    return [InputFile(f"/data/{name}", name, i, "jsonl", "", 1, "f") for i, name in enumerate(sorted(names))]


def test_a_file_that_names_someone_is_stored_under_another_name(caplog):
    names = SourceNames(FAST, KEY)
    raw = ["Petra_Brandstetter_078-05-1120.jsonl", "zz/bob.jones@example.com.jsonl.gz", "2024/tickets-2024-01-31.jsonl",
           "part-00000-of-00128.parquet", "export_1699999999.csv", "Mark_Down.jsonl", "en.jsonl",
           "part-00000-1f3a5b7c-9d1e-4f2a-8b3c-5d6e7f8a9b0c-c000.parquet"]  # fmt: skip
    stored = {file.path.removeprefix("/data/"): file for file in names.files(files(*raw))}
    changed = {name for name, file in stored.items() if file.source != name}
    assert changed == set(raw[:2])
    assert not re.search("Petra|Brandstetter|078|bob|jones", str([file.source for file in stored.values()]))
    assert stored[raw[0]].source.endswith(".jsonl") and stored[raw[1]].source.startswith("zz/source_")
    assert sorted(file.source for file in stored.values()) == [
        file.source for file in sorted(stored.values(), key=lambda file: file.rank)
    ]
    assert "2 input files" in caplog.text and "Petra" not in caplog.text
    assert SourceNames(PiiConfig(profile="none"), KEY).stored(raw[0]) == raw[0]
    mix = MixConfig(weights={raw[0]: 2.0, "en.jsonl": 1.0}, weights_by="source", synthetic_sources=[raw[1]])
    assert set(names.mix(mix).weights) == {stored[raw[0]].source, "en.jsonl"}
    assert names.mix(mix).synthetic_sources == [stored[raw[1]].source]


def test_names_do_not_depend_on_the_engine():
    assert NameScanner(PiiConfig(), KEY).name("label", "", "Petra Brandstetter") == NameScanner(FAST, KEY).name(
        "label", "", "Petra Brandstetter"
    )


def test_numbers_are_not_read_by_a_model(monkeypatch):
    from ftlib.text.pii.engines import NerEngines

    seen = []
    original = NerEngines.find

    def find(self, texts, language):
        seen.append((language, list(texts)))
        return original(self, texts, language)

    monkeypatch.setattr(NerEngines, "find", find)
    metadata = json.dumps({"t": [1699999999123, 4111111111111111]})
    (row,) = redact(record(text="x", metadata=metadata), profile="enterprise")
    assert "4111111111111111" not in row[s.METADATA]
    assert {language for language, texts in seen if any("1699" in text for text in texts)} == {"zxx"}
