"""Answers that match a JSON schema or a regular expression: which tokens may come next (by llguidance)."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftlib.inference.protocol import Grammar


class Matcher:
    """One answer on its way through a grammar."""

    def __init__(self, matcher: Any, num_tokens: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((1, (num_tokens + 31) // 32), np.int32)

    def allowed(self, vocabulary: int) -> Tensor:
        """Tokens that may come next, bool[vocabulary]; end tokens where the answer may end."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        allowed = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little")[:vocabulary].astype(bool)
        missing = vocabulary - len(allowed)
        return torch.from_numpy(np.pad(allowed, (0, missing)) if missing > 0 else allowed)

    def accept(self, tokens: Sequence[int]) -> None:
        """The answer got tokens; raises ValueError for one that was not allowed."""
        if not self._matcher.consume_tokens(list(tokens)):
            raise ValueError("the answer so far does not match its grammar")

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Grammars over one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Any, num_tokens: int, stop_ids: Sequence[int]) -> None:
        """Take a fast tokenizer, the length of the logits and the end tokens."""
        self._tokenizer, self._num_tokens, self._stop_ids = tokenizer, num_tokens, sorted(stop_ids)
        self._lock = threading.Lock()
        self._made: Any = None

    def matcher(self, grammar: Grammar) -> Matcher:
        """A fresh matcher; raises ValueError for a grammar that cannot be compiled."""
        from llguidance import LLMatcher

        with self._lock:  # the first takes about a second
            if self._made is None:
                from llguidance.hf import from_tokenizer

                self._made = from_tokenizer(self._tokenizer, self._num_tokens, self._stop_ids)
        try:
            # Without free white space: a small model would go on with it until its tokens are used up.
            matcher = LLMatcher(self._made, _compiled(grammar), log_level=0)
        except (ValueError, TypeError) as error:
            raise ValueError(f"grammar: {_first_line(error)}") from None
        if matcher.is_error():
            raise ValueError(f"grammar: {_first_line(matcher.get_error())}")
        return Matcher(matcher, self._num_tokens)


def _compiled(grammar: Grammar) -> str:
    from llguidance import LLMatcher

    if grammar.kind == "regex":
        return str(LLMatcher.grammar_from_regex(grammar.text))
    schema = grammar.text if grammar.kind == "json_schema" else json.dumps({"type": "object"})
    return str(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False}))


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
