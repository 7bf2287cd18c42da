"""Log-probabilities in OpenAI's shapes: which text and bytes a token stands for, and the lists of both APIs.

A token can be a part of a character, so its bytes come from the vocabulary's entry, not from decoding it alone.
"""

import math
from typing import Any

from ftlib.inference.protocol import TokenEvent

_LOWEST = -9999.0  # JSON has no infinity; OpenAI sends this for "very unlikely"


class Vocabulary:
    """A tokenizer's entries, copied once: reading them needs no lock on the tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._added = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items()}
        self._bytes = _byte_alphabet() if any("Ġ" in (piece or "") for piece in self._pieces) else {}

    def content(self, token: int) -> bytes:
        """The bytes that a token adds to an answer; none for an id that is not an entry."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._pieces[token] if token < len(self._pieces) else None
        if piece is None:
            return b""
        if self._bytes:
            return b"".join(
                bytes([self._bytes[char]]) if char in self._bytes else char.encode(errors="replace") for char in piece
            )
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode(errors="replace")  # type: ignore[no-any-return]

    def text(self, token: int) -> str:
        """A token as text; bytes that are no character by themselves as OpenAI writes them."""
        content = self.content(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable characters for bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}


class LogprobWriter:
    """The log-probabilities of one answer, token by token; its state is the offset in the text."""

    def __init__(self, vocabulary: Vocabulary, chat: bool) -> None:
        self._vocabulary, self._chat, self._offset = vocabulary, chat, 0

    def write(self, events: list[TokenEvent]) -> dict[str, Any] | None:
        """`choices[].logprobs` of these events; None where none has a token."""
        tokens = [event for event in events if event.token is not None]
        if not tokens:
            return None
        return self._chat_shape(tokens) if self._chat else self._completion_shape(tokens)

    def _chat_shape(self, events: list[TokenEvent]) -> dict[str, Any]:
        content = []
        for event in events:
            top = [self._entry(token, logprob) for token, logprob in event.top_logprobs]
            content.append({**self._entry(event.token or 0, event.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        content = list(self._vocabulary.content(token))
        return {"token": self._vocabulary.text(token), "logprob": _finite(logprob), "bytes": content}

    def _completion_shape(self, events: list[TokenEvent]) -> dict[str, Any]:
        texts = [self._vocabulary.text(event.token or 0) for event in events]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        tops = [
            {self._vocabulary.text(token): _finite(logprob) for token, logprob in event.top_logprobs}
            for event in events
        ]
        return {
            "tokens": texts,
            "token_logprobs": [_finite(event.logprob) for event in events],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _finite(logprob: float | None) -> float:
    return max(logprob, _LOWEST) if logprob is not None and not math.isnan(logprob) else _LOWEST
