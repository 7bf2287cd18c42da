"""One driver at a time for a study.

So every RUNNING trial that a new driver finds is one that its predecessor lost, on any storage.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger

if TYPE_CHECKING:
    from optuna import Study

logger = get_logger(__name__)

BEAT_S = 5.0  # between two signs of life of a driver
LEASE_S = 20.0  # a driver silent for this long is gone
_DRIVER = "driver"


class Lease:
    """The right to drive a study: a record in it that its holder renews, so that two drivers never mix.

    A predecessor that was killed is noticed at once on the same host, else when its record stood still for `LEASE_S`.
    Signs of life are compared with each other, not with this host's clock.
    """

    def __init__(self, study: "Study", sleep: Callable[[float], None] = time.sleep) -> None:
        self._study, self._id, self._last = study, uuid.uuid4().hex, 0.0
        self._host = f"{socket.gethostname()}:{_boot_id()}"
        holder = self._holder()
        if holder and not self._dead(holder):
            logger.info(
                "study %s has a driver (process %s); waiting to see if it lives", study.study_name, holder["pid"]
            )
            for _ in range(round(LEASE_S)):
                sleep(1)
                now = self._holder()
                if now != holder and now is not None:
                    raise UserError(
                        f"study {study.study_name} is being driven by process {now['pid']} on "
                        f"{now['host'].split(':')[0]}; wait for it, or choose another search.study_name"
                    )
                if now is None:
                    break
        self._write()

    def renew(self) -> None:
        """Give a sign of life when one is due; raises UserError if another driver took the study over."""
        if time.monotonic() - self._last >= BEAT_S:
            holder = self._holder()
            if not holder or holder["id"] != self._id:
                raise UserError(f"study {self._study.study_name} was taken over by another process")
            self._write()

    def release(self) -> None:
        """End the lease, so that the next driver need not wait."""
        holder = self._holder()
        if holder and holder["id"] == self._id:
            self._study.set_user_attr(_DRIVER, None)

    def _holder(self) -> dict[str, Any] | None:
        # The storage is asked anew: another process writes this.
        holder: dict[str, Any] | None = self._study.user_attrs.get(_DRIVER)
        return holder

    def _write(self) -> None:
        self._last = time.monotonic()
        self._study.set_user_attr(
            _DRIVER, {"id": self._id, "host": self._host, "pid": os.getpid(), "beat": uuid.uuid4().hex[:8]}
        )

    def _dead(self, holder: dict[str, Any]) -> bool:
        return bool(holder["host"] == self._host) and not Path(f"/proc/{holder['pid']}").exists()


def _boot_id() -> str:
    """Tells hosts (and containers) of one name apart: a process number means nothing in another one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:8]}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return uuid.uuid4().hex[:8]
