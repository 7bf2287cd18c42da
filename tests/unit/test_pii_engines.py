"""NER engines by configuration: labels of all kinds of models, batches, several engines, each text to its language."""

import importlib.util
import json
import random

import pyarrow as pa
import pytest

from ftlib.config.loader import validate
from ftlib.config.prepare import InputConfig, NerEngineConfig, PiiConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.prepare import check_pii
from ftlib.data.redact import Redactor
from ftlib.data.shapes import to_content
from ftlib.text.pii import Finding, PiiAnalyzer
from ftlib.text.pii.engines import NerEngines, resolve_models, unmapped_labels
from ftlib.text.pii.gliner_model import GlinerModel, pieces
from ftlib.text.pii.ner_labels import GLINER_LABELS, NEMOTRON_LABELS, gliner_labels, map_labels
from ftlib.text.pii.profiles import ENTERPRISE
from ftlib.text.pii.token_classifier import TokenClassifier
from tests.tiny_classifier import train_classifier

GERMAN = "Ich habe mit der Zentrale gesprochen und warte noch auf die Antwort von Wolperdinger."
ENGLISH = "I have talked to the office and I am still waiting for the answer of Wolperdinger."
KEY = b"0123456789abcdef"


def test_an_engine_that_is_not_installed_names_the_command():
    if importlib.util.find_spec("gliner") is not None:
        pytest.skip("GLiNER is installed here")
    with pytest.raises(UserError, match=r"gliner is not installed.*pip install 'ftlib\[gliner\]'"):
        check_pii(PiiConfig(ner_engine="gliner", ner_model="urchade/gliner_multi_pii-v1"))
    with pytest.raises(UserError, match="gliner is not installed"):
        check_pii(PiiConfig(ner_engines=[NerEngineConfig(engine="gliner", model="nvidia/gliner-PII")]))


def test_an_engine_without_a_model_and_one_that_cannot_be_loaded_say_so(tmp_path):
    with pytest.raises(UserError, match=r"pii\.ner_model"):
        check_pii(PiiConfig(ner_engine="transformers"))
    with pytest.raises(UserError, match="cannot load it"):
        check_pii(PiiConfig(ner_engine="transformers", ner_model=str(tmp_path)))
    with pytest.raises(UserError, match="no_such_pipeline is not installed"):
        check_pii(PiiConfig(ner_engines=[NerEngineConfig(engine="spacy", model="no_such_pipeline")]))


def test_no_engine():
    assert resolve_models(PiiConfig(ner_engine="none")) == []
    assert check_pii(PiiConfig(ner_engine="none", language="xx")) == "none"
    assert check_pii(PiiConfig(models={"de": "none"})).startswith("en_core_web")
    with pytest.raises(UserError, match="de_core_news_sm is not installed"):
        check_pii(PiiConfig(models={"de": "de_core_news_sm"}))
    with pytest.raises(UserError, match="models"):
        validate(PiiConfig, {"models": {"German": "x"}})


@pytest.mark.parametrize(
    ("label", "entity"),
    [
        ("B-PER", "PERSON"), ("S-private_person", "PERSON"), ("E-private_address", "STREET_ADDRESS"),
        ("I-account_number", "ACCOUNT_NUMBER"), ("L-secret", "API_KEY"), ("private_phone", "PHONE_NUMBER"),
        ("U-first_name", "PERSON"), ("B-medical_record_number", "MEDICAL_RECORD_NUMBER"), ("I-GIVENNAME", "PERSON"),
        ("I-TELEPHONENUM", "PHONE_NUMBER"), ("I-BUILDINGNUM", "STREET_ADDRESS"), ("I-SOCIALNUM", "US_SSN"),
        ("GPE", "LOCATION"), ("ORG", "ORGANIZATION"), ("PATIENT", "PERSON"), ("email address", "EMAIL_ADDRESS"),
    ],
)  # fmt: skip
def test_known_labels_of_models(label, entity):
    assert map_labels([label], {}).entities == {label: entity}


def test_labels_that_nobody_knows_are_named_and_what_the_user_says_counts_first():
    found = map_labels(["O", "B-HOBBY", "I-HOBBY", "B-PER", "DATE", "B-DEBTOR"], {"debtor": "PERSON", "PER": "none"})
    assert found.entities == {"B-DEBTOR": "PERSON"}
    assert found.unmapped == ("HOBBY",)


def test_what_gliner_is_asked_for_is_known():
    for labels in (GLINER_LABELS, NEMOTRON_LABELS):
        mapped = map_labels(labels, {})
        assert mapped.unmapped == () and set(mapped.entities) == set(labels)
        assert mapped.names <= ENTERPRISE
    assert "medical_record_number" in gliner_labels("nvidia/gliner-PII", {})
    asked = gliner_labels("urchade/gliner_multi_pii-v1", {"ship name": "SHIP", "iban": "none"})
    assert asked["ship name"] == "SHIP" and "iban" not in asked and asked["person"] == "PERSON"


PRIVATE = {"Wolper##dinger": "B-private_person", "Anna": "S-first_name", "80849": "I-medical_record_number",
           "knitting": "B-hobby"}  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(train_classifier(tmp_path_factory.mktemp("classifier"), PRIVATE))


def only(model, **more):
    return PiiConfig(ner_engine="transformers", ner_model=model, **more)


def spans(text, findings):
    return [(text[item.start : item.end], item.entity) for item in findings]


def test_a_token_classifier_with_labels_of_its_own_finds_all_kinds(classifier, caplog):
    config = only(classifier, entities=["PERSON", "MEDICAL_RECORD_NUMBER"])
    assert check_pii(config) == f"transformers {classifier}"
    assert caplog.text.count("hobby") == 1 and "pii.ner_labels" in caplog.text
    assert unmapped_labels(config) == {classifier: ("hobby",)}
    text = "he wrote to Anna Wolperdinger, and 80849 knitting."
    assert spans(text, PiiAnalyzer(config).analyze([text])[0]) == [
        ("Anna Wolperdinger", "PERSON"),
        ("80849", "MEDICAL_RECORD_NUMBER"),
    ]
    own = only(classifier, ner_labels={"hobby": "HOBBY"})
    assert ("knitting", "HOBBY") in spans(text, PiiAnalyzer(own).analyze([text])[0])
    assert PiiAnalyzer(config).versions()["ner_model"].startswith(f"{classifier} (transformers ")


def test_a_model_of_which_no_label_is_known_is_refused(tmp_path):
    model = train_classifier(tmp_path / "m", {"knitting": "B-hobby", "Anna": "LABEL_1"})
    with pytest.raises(UserError, match=r"none of its labels is known \(LABEL_1, hobby\).*pii\.ner_labels"):
        check_pii(only(str(model)))
    assert check_pii(only(str(model), ner_labels={"LABEL_1": "PERSON"})) == f"transformers {model}"


def test_long_texts_are_read_to_their_end_and_batches_change_nothing(classifier):
    finder = TokenClassifier(classifier, {}, 0.5, gpu=False)
    long = "he wrote to " * 80 + "Wolperdinger and " + "he wrote at , " * 60 + "Anna."
    assert spans(long, finder.find([long])[0]) == [("Wolperdinger", "PERSON"), ("Anna", "PERSON")]
    words = ["he", "wrote", "to", "and", ",", ".", "Anna", "Wolperdinger", "80849", "knitting"]
    choose = random.Random(1)
    texts = [" ".join(choose.choices(words, k=choose.randint(1, 90))) for _ in range(40)]
    alone = [finder.find([text])[0] for text in texts]
    assert finder.find(texts) == alone and finder.find(texts[::-1]) == alone[::-1]
    assert finder.find([]) == [] and finder.find(["", "  "]) == [[], []]


def test_several_engines_find_what_any_of_them_finds(classifier, tmp_path):
    places = str(train_classifier(tmp_path / "places", {"Anna": "O", "Berlin": "GPE"}))
    text = "he wrote to Wolperdinger at Berlin."
    union = PiiConfig(
        ner_engine="none", ner_engines=[{"engine": "transformers", "model": name} for name in (classifier, places)]
    )
    assert check_pii(union) == f"transformers {classifier}, transformers {places}"
    assert spans(text, PiiAnalyzer(union).analyze([text])[0]) == [("Wolperdinger", "PERSON"), ("Berlin", "LOCATION")]
    beside = PiiConfig(ner_engines=[{"engine": "transformers", "model": places}])
    assert ("Berlin", "LOCATION") in spans(text, PiiAnalyzer(beside).analyze([text])[0])
    assert PiiAnalyzer(beside).versions()["ner_model"].startswith("en_core_web")
    german = PiiConfig(
        ner_engine="none", ner_engines=[{"engine": "transformers", "model": places, "languages": ["de"]}]
    )
    assert spans(text, PiiAnalyzer(german).analyze([text, text], ["de", "en"])[0]) == [("Berlin", "LOCATION")]
    assert spans(text, PiiAnalyzer(german).analyze([text, text], ["de", "en"])[1]) == []


def test_a_threshold_is_the_models(classifier):
    sure = TokenClassifier(classifier, {}, 0.5, gpu=False).find(["he wrote to Anna"])[0]
    assert TokenClassifier(classifier, {}, min(1.0, sure[0].score + 0.001), gpu=False).find(["he wrote to Anna"]) == [
        []
    ]


def test_a_spacy_pipeline_in_a_folder_with_labels_of_its_own(tmp_path):
    import spacy

    nlp = spacy.blank("en")
    ner = nlp.add_pipe("ner")
    ner.add_label("DEBTOR")
    nlp.initialize()
    nlp.to_disk(tmp_path / "own")
    model = str(tmp_path / "own")
    with pytest.raises(UserError, match=r"none of its labels is known \(DEBTOR\)"):
        check_pii(PiiConfig(ner_model=model))
    config = PiiConfig(ner_model=model, ner_labels={"DEBTOR": "PERSON"})
    assert check_pii(config).startswith(model)
    assert PiiAnalyzer(config).uses_ner


class FakeGliner:
    """Answers like `gliner.GLiNER` (0.2.29): the package needs an older transformers, so it is not installed here."""

    texts: list[str] = []

    def inference(self, texts, labels, threshold, batch_size):
        type(self).texts = list(texts)
        assert "person" in labels and 0 < threshold <= 1 and batch_size > 0
        found = []
        for text in texts:
            place = text.find("Wolperdinger")
            item = {"start": place, "end": place + 12, "text": "Wolperdinger", "label": "person", "score": 0.91234}
            found.append([item] if place >= 0 else [])
        return found


def test_gliner_reads_long_texts_in_pieces_and_in_one_batch():
    finder = GlinerModel.__new__(GlinerModel)
    finder._threshold, finder._entities, finder._model = 0.5, gliner_labels("x", {}), FakeGliner()
    long = "word " * 700 + "Wolperdinger " + "word " * 30
    found = finder.find(["Wolperdinger wrote.", "nobody", long, ""])
    assert found[0] == [Finding(0, 12, "PERSON", 0.912)] and found[1] == found[3] == []
    assert spans(long, found[2]) == [("Wolperdinger", "PERSON")]
    assert max(len(text.split()) for text in FakeGliner.texts) <= 256
    covered = set()
    for start, end in pieces(long):
        covered |= set(range(start, end))
    assert {i for i, character in enumerate(long) if character != " "} <= covered


class Named:
    """An engine that finds one word and says in its score who found it."""

    def __init__(self, score):
        self.version, self.score = f"named {score}", score

    def find(self, texts):
        places = [text.find("Wolperdinger") for text in texts]
        return [[Finding(place, place + 12, "PERSON", self.score)] if place >= 0 else [] for place in places]


@pytest.fixture
def engines(monkeypatch):
    """English texts go to an engine that scores 0.91, German ones to one that scores 0.92."""
    scores = {frozenset(["en"]): 0.91, frozenset(["de"]): 0.92}
    original = NerEngines.__init__

    def build(model, gpu=False):
        return Named(scores[model.languages])

    def init(self, config, models=None):
        original(self, config, models, build)

    monkeypatch.setattr(NerEngines, "__init__", init)


@pytest.fixture
def german_pipeline(tmp_path):
    import spacy

    nlp = spacy.blank("de")
    nlp.add_pipe("ner").add_label("PER")
    nlp.initialize()
    nlp.to_disk(tmp_path / "de")
    return str(tmp_path / "de")


def test_each_text_goes_to_the_model_of_its_language(engines, german_pipeline):
    analyzer = PiiAnalyzer(PiiConfig(models={"de": german_pipeline}))
    found = analyzer.analyze([GERMAN, ENGLISH, ENGLISH], ["de", "en", "und"])
    assert [{item.score for item in items if item.entity == "PERSON"} for items in found] == [{0.92}, {0.91}, {0.91}]
    assert analyzer.analyze([GERMAN])[0][0].score == 0.91, "pii.language without a language"
    assert analyzer.analyze([GERMAN], ["fr"]) == [[]], "rules alone where no model reads the language"
    assert analyzer.reads("de") and analyzer.reads(None) and analyzer.reads("und") and not analyzer.reads("fr")


def redact(config, texts):
    base = dict.fromkeys(s.READ.names) | {s.DERIVED: True, s.SOURCE: "x", s.ID: "a"}
    rows = [{**base, s.ROW: i, s.TEXT: text, s.METADATA: metadata} for i, (text, metadata) in enumerate(texts)]
    return Redactor(config, KEY)(pa.Table.from_pylist(rows, schema=s.READ)).to_pylist()


def test_a_record_states_its_language_or_it_is_detected(engines, german_pipeline):
    texts = [(GERMAN, "{}"), (ENGLISH, "{}"), (ENGLISH, json.dumps({"language": "de-AT"})), ("Wolperdinger", "{}")]
    rows = redact(PiiConfig(models={"de": german_pipeline}), texts)
    assert [round(row["findings"][-1]["score"], 2) for row in rows] == [0.92, 0.91, 0.92, 0.91]
    assert all("Wolperdinger" not in row["text"] for row in rows)


def test_a_language_column_is_kept_with_the_metadata():
    config = InputConfig(paths=["x"])
    content = to_content({"text": "a", "language": "de", "metadata": {"n": 1}}, "text", config)
    assert content.metadata == {"language": "de", "n": 1}
    assert to_content({"text": "a"}, "text", config).metadata == {}


def test_a_union_covers_all_that_each_of_its_engines_finds(classifier, tmp_path):
    """Whatever is in a text: a second engine never takes away from what the first one finds."""
    places = str(train_classifier(tmp_path / "places", {"Anna": "B-GPE", "knitting": "B-ORG", "wrote": "B-PER"}))
    engines = [NerEngineConfig(engine="transformers", model=name) for name in (classifier, places)]
    chosen = (engines[:1], engines[1:], engines)
    analyzers = [PiiAnalyzer(PiiConfig(ner_engine="none", ner_engines=some)) for some in chosen]
    choose = random.Random(3)
    words = ["he", "wrote", "to", ",", ".", "Anna", "Wolperdinger", "80849", "knitting", "a@b.org", "2024-01-31"]
    texts = [" ".join(choose.choices(words, k=choose.randint(1, 30))) for _ in range(30)]
    first, second, union = (
        [{i for item in items for i in range(item.start, item.end)} for items in analyzer.analyze(texts)]
        for analyzer in analyzers
    )
    assert all(one | other <= both for one, other, both in zip(first, second, union, strict=True))
    assert any(one - other for one, other in zip(first, second, strict=True))
