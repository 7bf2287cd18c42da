"""API keys: random bearer tokens, kept by the endpoint as keyed digests only.

The deployer reads the keys (`FTLIB_API_KEYS_FILE`, one a line, `#` starts a comment) and hands the replicas
HMAC-SHA256 digests under a random pepper, inside the application's arguments; never in `runtime_env`, which Ray shows
as job metadata. New keys take effect with the next `jobs.deploy`. A key has at least 32 characters, so that digests
cannot be searched; `openssl rand -hex 32` makes one.

Without keys an endpoint is deployed on loopback only, open to every process of the machine, with a warning.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from ftlib.core.errors import UserError
from ftlib.core.secrets import API_KEYS, read_secret
from serve_apps.errors import ApiError

MIN_KEY_CHARS = 32
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class KeyRing:
    """Digests of the keys that are accepted; none means that no key is asked for."""

    pepper: str = ""
    digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, keys: list[str]) -> "KeyRing":
        """Digest keys under a fresh pepper."""
        pepper = secrets.token_hex(32)
        return cls(pepper, tuple(_digest(pepper, key) for key in keys))

    def check(self, authorization: str | None) -> str:
        """The tenant behind the header; raises ApiError 401 unless it bears one of the keys.

        Time does not depend on which. A tenant is named by a digest of the key without the pepper, so that its files
        outlive a deployment; empty where no key is asked for.
        """
        if not self.digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        presented = _digest(self.pepper, key)
        matches = [hmac.compare_digest(presented, known) for known in self.digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "no valid API key: send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return _digest("ftlib tenant", key)[:32]


def _digest(pepper: str, key: str) -> str:
    return hmac.new(pepper.encode(), key.encode(errors="replace"), hashlib.sha256).hexdigest()


def read_keys() -> list[str]:
    """The keys of `FTLIB_API_KEYS_FILE` or `FTLIB_API_KEYS`; raises UserError for one that is too short."""
    lines = [line.split("#", 1)[0].strip() for line in (read_secret(API_KEYS) or "").splitlines()]
    keys = [line for line in lines if line]
    if short := sum(len(key) < MIN_KEY_CHARS for key in keys):
        raise UserError(
            f"{API_KEYS}: {short} of {len(keys)} API keys have fewer than {MIN_KEY_CHARS} characters; "
            "make one with: openssl rand -hex 32"
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    return host in _LOOPBACK or host.startswith("127.")
