"""Reports made of hostile names: whatever a file, column, label or entity is called, the page shows it as text."""

import copy
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.core.page import visible
from ftlib.data.report import build_report, render_html, write_report
from tests.unit.test_report import FACTS

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}{% raw %}\u202egpj.exe\u2066\x1b[31m\x00"


NAMED = ("source", "shape", "label", "reason", "error", "entity", "field", "labels", "warnings")


def planted(value: Any, text: str, key: str = "") -> Any:
    """The same facts with every name that an input decides replaced."""
    if isinstance(value, dict):
        return {name: planted(item, text, name) for name, item in value.items()}
    if isinstance(value, list):
        return [planted(item, text, key) for item in value]
    return text if isinstance(value, str) and key in NAMED else value


def hostile_report(text: str) -> Any:
    facts = planted(copy.deepcopy(FACTS), text)
    facts["warnings"] = [text]
    return build_report(facts)


def test_no_name_becomes_markup_or_turns_the_page_round(tmp_path):
    report = hostile_report(HOSTILE)
    page = render_html(report)
    assert "&lt;script&gt;" in page and "{{7*7}}" in page
    assert not re.search(r"<script|<img|onerror=alert\(2\)>(?!&)", page.replace("&lt;", "\0"))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", page) and "\\u202e" in page
    write_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text())["summary"]


@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1))
def test_the_page_has_the_same_tags_whatever_the_names(text):
    def tags(name):
        return re.findall(r"<[a-zA-Z/!][^>]*>", re.sub(r'(title|style|aria-label|class)="[^"]*"', "", page_of(name)))

    def page_of(name):
        return render_html(hostile_report(name))

    assert tags(text) == tags("name")


@settings(deadline=None)
@given(st.text())
def test_what_is_shown_has_no_marks_that_direct(text):
    shown = visible(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)
    assert visible("سلام\u200cدنیا 👩\u200d🚀\n") == "سلام\u200cدنیا 👩\u200d🚀\n"
