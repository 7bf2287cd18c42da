"""One logger tree, `ftlib.*`, on standard error: standard output belongs to a job's result.

Names of files, columns and labels come from strangers: in a log line their control characters are escaped, so that a
name with a line break cannot forge a line, nor one with a bidirectional mark turn it round.
"""

import logging
import sys
import time

_FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; pass `__name__`."""
    return logging.getLogger(name)


def shown(text: object, limit: int = 80) -> str:
    """A name or value as a message shows it: on one line, without control characters, not longer than `limit`."""
    line = _escaped(str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _escaped(text: str, keep: str = "") -> str:
    """Escape what is not printable: control and format characters, line separators, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    return repr(char)[1:-1] if ord(char) < 0x80 else f"\\u{ord(char):04x}"


class _SafeFormatter(logging.Formatter):
    """Escapes text that is put into a message; a message of several lines is indented from its second line on."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            args = tuple(_escaped(item) if isinstance(item, str) else item for item in record.args)
            record = logging.makeLogRecord({**record.__dict__, "args": args})
        return _escaped(super().format(record), keep="\n\t").replace("\n", "\n  ")


def setup_logging(level: int = logging.INFO) -> None:
    """Attach one handler to the `ftlib` tree. Idempotent, so workers may call it again."""
    root = logging.getLogger("ftlib")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_SafeFormatter(_FORMAT, datefmt="%H:%M:%S"))
        root.addHandler(handler)
        root.propagate = False
    root.setLevel(level)


def format_duration(seconds: float) -> str:
    """`75.2` → `1m15s`: for progress lines and estimates."""
    seconds = max(0, round(seconds))
    hours, rest = divmod(seconds, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{secs:02d}s" if minutes else f"{secs}s"


class Progress:
    """Logs `label: done/total, rate, estimate`, at most once every `every_s` seconds."""

    def __init__(self, label: str, total: int | None, logger: logging.Logger, every_s: float = 5.0) -> None:
        self._label, self._total, self._logger, self._every_s = label, total, logger, every_s
        self._start = self._last = time.monotonic()
        self.done, self._told = 0, -1

    def advance(self, n: int = 1) -> None:
        """Count `n` more units and log when the interval has passed."""
        self.done += n
        now = time.monotonic()
        if now - self._last >= self._every_s:
            self._last, self._told = now, self.done
            self._logger.info(self._line(now))

    def finish(self) -> None:
        """Log the final line, unless it stands there already."""
        if self._told != self.done:
            self._logger.info(self._line(time.monotonic()))

    def _line(self, now: float) -> str:
        elapsed = max(now - self._start, 1e-9)
        rate = self.done / elapsed
        total = f"/{self._total}" if self._total else ""
        line = f"{self._label}: {self.done}{total} at {rate:.1f}/s, {format_duration(elapsed)} elapsed"
        if self._total and self.done and self.done < self._total:
            line += f", about {format_duration((self._total - self.done) / rate)} left"
        return line
