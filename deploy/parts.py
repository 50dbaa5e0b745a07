"""The parts of a server that must not end: each starts again whenever it does, and a file says how it fares.

| a part is | until                                            |
|-----------|--------------------------------------------------|
| running   | it ends or raises, whatever it raises            |
| waiting   | a pause is over, each twice the last, to a minute|
| silent    | it shows a sign of life again; seen by who reads |
"""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .supervise import FIRST_SECONDS, MOST_SECONDS, STEADY_SECONDS, Stop, Tell

WRITE_SECONDS, SILENT_SECONDS = 2.0, 20.0
"""How often the file is written, and how old it may be."""

HEALTH = "health.json"
"""The file in DIR/state that says how the server's parts fare."""


@dataclass
class Part:
    """One part of the server, and how it fares; times are seconds since 1970."""

    patience: float
    """How long it may show no sign of life, in seconds."""
    state: str = "running"
    since: float = field(default_factory=time.time)
    seen: float = field(default_factory=time.time)
    """When it last showed a sign of life."""
    ends: int = 0
    """How often it ended."""
    reason: str = ""
    """Why it did the last time."""


@dataclass(frozen=True)
class Health:
    """What a server wrote of itself."""

    written: float
    parts: dict[str, Part]

    @classmethod
    def read(cls, directory: Path) -> "Health | None":
        """How the server of the folder `directory` fares; None if it never ran, or the file is not to be read."""
        try:
            found = json.loads((directory / "state" / HEALTH).read_text(encoding="utf-8"))
            return cls(found["written"], {name: Part(**part) for name, part in found["parts"].items()})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def lines(self, now: float) -> list[str]:
        """A line for each part."""
        if now - self.written > SILENT_SECONDS:
            return [f"the server has shown no sign of life for {now - self.written:.0f} s; is `deploy server` running?"]
        lines = []
        for name, part in self.parts.items():
            silence = now - part.seen
            state = f"SILENT for {silence:.0f} s" if silence > part.patience else part.state
            ended = f", ended {part.ends} ×, the last time by {part.reason}" if part.ends else ""
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(part.since))
            lines.append(f"{name:<14} {state} since {since}{ended}")
        return lines


class Parts:
    """Runs the parts of the server of the folder `directory`; `tell` hears of each end."""

    def __init__(self, directory: Path, tell: Tell) -> None:
        self._path, self._tell = directory / "state" / HEALTH, tell
        self._parts: dict[str, Part] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = Stop()
        self.start("health", self._write, SILENT_SECONDS)

    @property
    def is_stopped(self) -> bool:
        """Whether the server is to end."""
        return self._stopped.is_set

    def stop(self) -> None:
        """Start nothing again."""
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """Pause for so long, or until the server is to end."""
        self._stopped.wait(seconds)

    def join(self, seconds: float = 30.0) -> None:
        """Wait for the threads' ends, but no longer than so."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def beat(self, name: str) -> None:
        """Note that a part lives."""
        self._parts[name].seen = time.time()

    def start(self, name: str, function: Callable[[], None], patience: float) -> None:
        """Run a part in a thread of its own, until `stop`."""
        thread = threading.Thread(target=self.run, args=(name, function, patience), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def run(self, name: str, function: Callable[[], None], patience: float) -> None:
        """Run a part here and start it again when it ends, by whatever; returns after `stop`."""
        part = self._parts[name] = Part(patience)
        delay = FIRST_SECONDS
        while not self.is_stopped:
            started = time.monotonic()
            part.state, part.since, part.seen = "running", time.time(), time.time()
            try:
                function()
                reason = "its return"
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"
            if self.is_stopped:
                return
            if time.monotonic() - started >= STEADY_SECONDS:
                delay = FIRST_SECONDS
            part.state, part.since, part.ends, part.reason = "waiting", time.time(), part.ends + 1, reason
            with suppress(Exception):  # a closed terminal must not end what this keeps alive
                self._tell(f"{name} ended by {reason}; starting it again in {delay:g} s")
            self._stopped.wait(delay)
            delay = min(2 * delay, MOST_SECONDS)

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        while not self.is_stopped:
            self.beat("health")
            parts = {name: asdict(part) for name, part in list(self._parts.items())}
            partial.write_text(json.dumps({"written": time.time(), "parts": parts}))
            os.replace(partial, self._path)
            self._stopped.wait(WRITE_SECONDS)
