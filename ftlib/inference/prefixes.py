"""Which tokens each slot holds states of, and which slot a new request should get.

A slot that is free keeps its states until it is given away: a request whose first tokens agree with it goes on there,
or, while another request still uses it, gets a copy. States of other adapters or salts never agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORTH_COPYING = 16  # tokens; below, computing them anew costs no more than a copy


@dataclass(frozen=True, slots=True)
class Place:
    """A slot whose first `length` states are right, once they are copied from `copy_from` if that is not None."""

    slot: int
    length: int
    copy_from: int | None = None


class Prefixes:
    """Book of the slots; not thread-safe."""

    def __init__(self, num_slots: int, capacity: int, reuse: bool = True) -> None:
        """Start with empty slots; without `reuse` nothing ever agrees."""
        self._tokens = np.full((num_slots, capacity), -1, np.int64)
        self._lengths = np.zeros(num_slots, np.int64)
        self._keys: list[tuple[str | None, str] | None] = [None] * num_slots
        self._in_use = np.zeros(num_slots, bool)
        self._used_at = np.zeros(num_slots, np.int64)
        self._clock = 0
        self._reuse = reuse

    def take(self, tokens: Sequence[int], key: tuple[str | None, str], usable: int) -> Place:
        """A free slot for a request.

        Args:
            tokens: of the request.
            key: its adapter and salt.
            usable: most states that it may take over.
        """
        agree = self._agreement(tokens[:usable], key) if self._reuse and usable > 0 else np.zeros_like(self._lengths)
        free = np.flatnonzero(~self._in_use)
        best, best_free = int(agree.argmax()), int(free[agree[free].argmax()])
        source = None
        if agree[best_free] >= _WORTH_COPYING and agree[best_free] >= agree[best]:
            slot, length = best_free, int(agree[best_free])
        else:
            # The one that is missed least: empty, else unused for longest.
            slot = int(free[np.lexsort((free, self._used_at[free]))[0]])
            length = int(agree[best])
            if length >= _WORTH_COPYING:
                source = best if best != slot else None
            else:
                length = int(agree[slot])
        self._keys[slot] = key
        self._lengths[slot] = length
        self._tokens[slot, :length] = tokens[:length]
        self._in_use[slot] = True
        self._touch(slot)
        return Place(slot, length, source)

    def extend(self, slot: int, start: int, tokens: Sequence[int]) -> None:
        """Tokens whose states a slot has got, from position `start`."""
        self._tokens[slot, start : start + len(tokens)] = tokens
        self._lengths[slot] = start + len(tokens)

    def release(self, slot: int) -> None:
        """The request is done; its states stay for as long as nobody needs the slot."""
        self._in_use[slot] = False
        self._touch(slot)

    def forget(self, adapter: str) -> None:
        """An adapter is gone: its states must not be taken for those of another of its name."""
        for slot, key in enumerate(self._keys):
            if key is not None and key[0] == adapter:
                self._keys[slot], self._lengths[slot], self._used_at[slot] = None, 0, 0

    def _touch(self, slot: int) -> None:
        self._clock += 1
        self._used_at[slot] = self._clock

    def _agreement(self, tokens: Sequence[int], key: tuple[str | None, str]) -> np.ndarray:
        """Leading tokens that each slot has states of, int64[slots]."""
        wanted = np.asarray(tokens, np.int64)
        differs = self._tokens[:, : len(wanted)] != wanted
        first = np.where(differs.any(1), differs.argmax(1), len(wanted))
        same = np.array([held == key for held in self._keys])
        return np.where(same, np.minimum(first, self._lengths), 0)
