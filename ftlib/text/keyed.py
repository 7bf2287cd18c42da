"""Keyed hashes (BLAKE2b): what stands on disk for a text or an identifier that must not.

Without the key, a hash of a guessed name or sentence cannot be compared with them. Each use has a `purpose`, so that
hashes of different uses never match each other.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

UInt64s = np.ndarray[tuple[int], np.dtype[np.uint64]]
MIX_MULTIPLIERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_MAX_REMEMBERED = 1 << 18


class KeyedHash:
    """Hashes of byte strings under a key, for one purpose (≤ 16 ASCII characters)."""

    def __init__(self, key: bytes, purpose: str) -> None:
        self._key = hashlib.blake2b(key, digest_size=32, person=b"ftlib").digest()
        self._purpose = purpose.encode()
        self._known: dict[bytes, int] = {}

    def digest(self, content: bytes, size: int = 16) -> bytes:
        """`size` bytes (1–64)."""
        return hashlib.blake2b(content, digest_size=size, key=self._key, person=self._purpose).digest()

    def hex(self, content: bytes, size: int = 12) -> str:
        """`2 * size` hexadecimal digits."""
        return self.digest(content, size).hex()

    def uint64(self, content: bytes) -> int:
        """An unsigned 64-bit integer."""
        return int.from_bytes(self.digest(content, 8), "little")

    def uint64s(self, contents: Iterable[bytes]) -> UInt64s:
        """uint64 [num_contents]; the same as `uint64` of each in half the time."""
        return np.frombuffer(b"".join(self.digests(contents, 8)), dtype="<u8").astype(np.uint64)

    def digests(self, contents: Iterable[bytes], size: int = 16) -> list[bytes]:
        """`digest` of each content, in half the time."""
        start = hashlib.blake2b(digest_size=size, key=self._key, person=self._purpose)

        def digest(content: bytes) -> bytes:
            state = start.copy()
            state.update(content)
            return state.digest()

        return list(map(digest, contents))

    def remembered_uint64s(self, contents: Sequence[bytes]) -> UInt64s:
        """`uint64s` of short contents that come again and again, such as words: looked up where seen before."""
        if len(self._known) > _MAX_REMEMBERED:
            self._known.clear()
        new = list(dict.fromkeys(content for content in contents if content not in self._known))
        self._known.update(zip(new, self.uint64s(new).tolist(), strict=True))
        return np.fromiter(map(self._known.__getitem__, contents), dtype=np.uint64, count=len(contents))

    def stream(self) -> "hashlib.blake2b":
        """An incremental hash, for contents that do not fit into memory; the same digest as `digest(…, 16)`."""
        return hashlib.blake2b(digest_size=16, key=self._key, person=self._purpose)


def key_fingerprint(key: bytes) -> str:
    """Which key it is, without telling anything else about it."""
    return KeyedHash(key, "fingerprint").hex(b"")


def mix64(values: UInt64s) -> UInt64s:
    """MurmurHash3's 64-bit finalizer, element by element: a bijection that spreads every bit."""
    values = values ^ (values >> np.uint64(33))
    values = values * MIX_MULTIPLIERS[0]
    values = values ^ (values >> np.uint64(33))
    values = values * MIX_MULTIPLIERS[1]
    mixed: UInt64s = values ^ (values >> np.uint64(33))
    return mixed
