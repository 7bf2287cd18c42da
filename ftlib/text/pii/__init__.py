"""Personal and secret data in texts: `PiiAnalyzer` finds it, `Replacer` takes it out.

Recognizers are Presidio's interface; they sit by topic in `contact`, `numbers`, `labelled`, `credentials`, `dates`,
`address` and `names`. `ner` runs a spaCy pipeline, `profiles` says what is looked for.
"""

from ftlib.text.pii.finding import Finding, merge_findings
from ftlib.text.pii.replace import Replacer

__all__ = ["Finding", "PiiAnalyzer", "Replacer", "merge_findings"]


def __getattr__(name: str) -> object:
    # Presidio and spaCy take a second to import; replacing needs neither.
    if name == "PiiAnalyzer":
        from ftlib.text.pii.analyzer import PiiAnalyzer

        return PiiAnalyzer
    raise AttributeError(name)
