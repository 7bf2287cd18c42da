"""NER engines by configuration and texts of several languages, each to its own model."""

import importlib.util
import json

import pyarrow as pa
import pytest

from ftlib.config.loader import validate
from ftlib.config.prepare import InputConfig, PiiConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.prepare import check_pii
from ftlib.data.redact import Redactor
from ftlib.data.shapes import to_content
from ftlib.text.pii import Finding, PiiAnalyzer
from ftlib.text.pii.engines import build_engine, resolve_engine

GERMAN = "Ich habe mit der Zentrale gesprochen und warte noch auf die Antwort von Wolperdinger."
ENGLISH = "I have talked to the office and I am still waiting for the answer of Wolperdinger."


def test_an_engine_that_is_not_installed_names_the_command():
    if importlib.util.find_spec("gliner") is not None:
        pytest.skip("GLiNER is installed here")
    with pytest.raises(UserError, match=r"gliner is not installed.*pip install 'ftlib\[gliner\]'"):
        check_pii(PiiConfig(ner_engine="gliner", ner_model="urchade/gliner_multi_pii-v1"))


def test_an_engine_without_a_model_and_one_that_cannot_be_loaded_say_so(tmp_path):
    with pytest.raises(UserError, match=r"pii\.ner_model"):
        check_pii(PiiConfig(ner_engine="transformers"))
    with pytest.raises(UserError, match="cannot load it"):
        build_engine(PiiConfig(ner_engine="transformers", ner_model=str(tmp_path)), "en")


def test_no_engine():
    assert resolve_engine(PiiConfig(ner_engine="none"), "en") is None
    assert check_pii(PiiConfig(ner_engine="none", language="xx")) == "none"
    assert check_pii(PiiConfig(models={"de": "none"})).startswith("en_core_web")
    with pytest.raises(UserError, match="de_core_news_sm is not installed"):
        check_pii(PiiConfig(models={"de": "de_core_news_sm"}))
    with pytest.raises(UserError, match="models"):
        validate(PiiConfig, {"models": {"German": "x"}})


@pytest.fixture
def classifier(tmp_path):
    """A BERT of two layers whose head calls every token a person."""
    import torch
    from transformers import BertConfig, BertForTokenClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Wolper", "##dinger", "wrote", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            id2label={0: "O", 1: "I-PER"}, label2id={"O": 0, "I-PER": 1},
        )
    )  # fmt: skip
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-4.0, 4.0]))
    model.save_pretrained(tmp_path)
    return tmp_path


def test_a_hugging_face_token_classifier_finds_names(classifier):
    analyzer = PiiAnalyzer(PiiConfig(ner_engine="transformers", ner_model=str(classifier)))
    (found,) = analyzer.analyze(["Wolperdinger"])
    assert [(item.start, item.end, item.entity) for item in found] == [(0, 12, "PERSON")]
    assert analyzer.versions()["ner_model"].startswith(str(classifier))


class Named:
    """An engine that finds one word and says in its score who found it."""

    def __init__(self, score):
        self.version, self.score = f"named {score}", score

    def find(self, texts):
        places = [text.find("Wolperdinger") for text in texts]
        return [[Finding(place, place + 12, "PERSON", self.score)] if place >= 0 else [] for place in places]


@pytest.fixture
def engines(monkeypatch):
    scores = {"en": 0.91, "de": 0.92}
    monkeypatch.setattr("ftlib.text.pii.analyzer.build_engine", lambda config, language: Named(scores[language]))


def test_each_text_goes_to_the_model_of_its_language(engines):
    analyzer = PiiAnalyzer(PiiConfig(models={"de": "x"}))
    found = analyzer.analyze([GERMAN, GERMAN, ENGLISH], ["de", "fr", "en"])
    assert [{item.score for item in items if item.entity == "PERSON"} for items in found] == [{0.92}, {0.91}, {0.91}]
    assert analyzer.analyze([GERMAN])[0][0].score == 0.91, "pii.language without a language"


def test_a_record_states_its_language_or_it_is_detected(engines):
    base = dict.fromkeys(s.READ.names) | {s.DERIVED: True, s.SOURCE: "x", s.ID: "a"}
    texts = [(GERMAN, "{}"), (ENGLISH, "{}"), (ENGLISH, json.dumps({"language": "de-AT"})), ("Wolperdinger", "{}")]
    rows = [{**base, s.ROW: i, s.TEXT: text, s.METADATA: metadata} for i, (text, metadata) in enumerate(texts)]
    redacted = Redactor(PiiConfig(models={"de": "x"}), b"0123456789abcdef")(pa.Table.from_pylist(rows, schema=s.READ))
    scores = [round(row["findings"][-1]["score"], 2) for row in redacted.to_pylist()]
    assert scores == [0.92, 0.91, 0.92, 0.91]
    assert all("Wolperdinger" not in text for text in redacted["text"].to_pylist())


def test_a_language_column_is_kept_with_the_metadata():
    config = InputConfig(paths=["x"])
    content = to_content({"text": "a", "language": "de", "metadata": {"n": 1}}, "text", config)
    assert content.metadata == {"language": "de", "n": 1}
    assert to_content({"text": "a"}, "text", config).metadata == {}
