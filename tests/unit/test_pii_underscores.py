"""Values between underscores: Markdown's emphasis and names in snake case."""

import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer

EMPHASISED = [
    ("US_SSN", "536-22-8741"),
    ("IP_ADDRESS", "192.168.17.44"),
    ("IP_ADDRESS", "8.8.8.8"),
    ("IP_ADDRESS", "2001:db8::8a2e:370:7334"),
    ("MAC_ADDRESS", "00:1B:44:11:3A:B7"),
    ("DATE_TIME", "1984-03-12"),
    ("DATE_TIME", "12.03.1984"),
    ("VIN", "1HGCM82633A004352"),
    ("API_KEY", "ghp_abcdefghij0123456789abcd"),
    ("API_KEY", "AKIAIOSFODNN7EXAMPLE"),
    ("PHONE_NUMBER", "415-555-0132"),
    ("PHONE_NUMBER", "+44 20 7946 0958"),
    ("DEVICE_ID", "550e8400-e29b-41d4-a716-446655440000"),
]
IN_NAMES = [pair for pair in EMPHASISED if pair[0] != "DATE_TIME" and pair[1] != "8.8.8.8"]


@pytest.fixture(scope="module")
def fast() -> PiiAnalyzer:
    return PiiAnalyzer(PiiConfig(profile="fast"))


def found(analyzer: PiiAnalyzer, text: str) -> list[tuple[str, str]]:
    return [(item.entity, text[item.start : item.end].strip("_")) for item in analyzer.analyze([text])[0]]


@pytest.mark.parametrize(("entity", "value"), EMPHASISED)
@pytest.mark.parametrize("marks", ["_", "__", "*", "**"])
def test_a_value_with_emphasis_is_found(fast: PiiAnalyzer, entity: str, value: str, marks: str) -> None:
    assert found(fast, f"so {marks}{value}{marks} it was") == [(entity, value)]


@pytest.mark.parametrize(("entity", "value"), IN_NAMES)
def test_a_value_in_a_name_of_snake_case_is_found(fast: PiiAnalyzer, entity: str, value: str) -> None:
    assert any(e == entity and value in v for e, v in found(fast, f"see snake_{value}_x there"))


@pytest.mark.parametrize(
    "text",
    [
        "libssl_1.1.0.2_amd64 and linux_5.15.0.91_generic",
        "my_face::add(x) and std_cafe::bed::dead",
        "my_api_v2_client_name = get_task_token_name1",
        "backup_2024-01-12_full holds it",
    ],
)
def test_versions_and_code_in_snake_case_stay(fast: PiiAnalyzer, text: str) -> None:
    assert found(fast, text) == []
