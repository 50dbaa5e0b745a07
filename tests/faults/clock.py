"""Time that passes only where somebody waits, and threads that run one at a time, in an order drawn by a seed.

A thread of the simulation runs until it sleeps, waits for a queue or ends; then the one that wakes first goes on, at
its time. So a run with threads and deadlines is a function of its seed, and minutes of it take milliseconds.
"""

import heapq
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


class Over(BaseException):
    """The simulated process has ended, and its threads with it."""


class Clock:
    """The time of one simulated process, in seconds from 0, and its threads."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.jumps: list[tuple[float, float]] = []
        """Of the wall clock, which monotonic time must not feel: (when, by how many seconds)."""
        self._draw = random.Random(seed)
        self._waiting: list[tuple[float, float, int, _Thread]] = []
        self._running = _Thread()
        self._threads: list[_Thread] = []
        self._is_over = False

    def wall(self) -> float:
        """Seconds since the epoch, as the process believes."""
        return 1.7e9 + self.now + sum(by for when, by in self.jumps if when <= self.now)

    def sleep(self, seconds: float) -> None:
        """Let the others run for so long."""
        self._wait_until(self._running, self.now + max(0.0, seconds))

    def start(self, target: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Begin a thread; it runs when the running one waits."""
        thread = _Thread()

        def body() -> None:
            thread.gate.acquire()
            try:
                if not self._is_over:
                    target(*args)
            except Over:
                return
            except BaseException as error:
                thread.error = error
            if not self._is_over:
                self._go_on()

        thread.real = threading.Thread(target=body, daemon=True)
        thread.real.start()
        self._threads.append(thread)
        self._push(thread, self.now)

    def end(self) -> None:
        """End all threads where they wait; raises what one of them died of."""
        self._is_over = True
        for thread in self._threads:
            thread.gate.release()
        for thread in self._threads:
            assert thread.real is not None
            thread.real.join(30.0)
            assert not thread.real.is_alive()
        for thread in self._threads:
            if thread.error is not None:
                raise thread.error

    @contextmanager
    def ticking(self, *modules: Any) -> Iterator[None]:
        """Have `modules` see this time, these threads and their queues, and everybody this wall clock."""
        clock = self

        class Thread:
            def __init__(self, target: Callable[..., object], args: tuple[Any, ...] = (), daemon: bool = False) -> None:
                self.start = lambda: clock.start(target, args)

        class SimpleQueue(_Queue):
            def __init__(self) -> None:
                super().__init__(clock)

        fakes = {
            "time": SimpleNamespace(monotonic=lambda: clock.now, sleep=self.sleep, perf_counter=lambda: clock.now),
            "threading": SimpleNamespace(Thread=Thread, Lock=threading.Lock, Event=threading.Event),
            "queue": SimpleNamespace(SimpleQueue=SimpleQueue, Empty=queue.Empty),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", self.wall)
            for module in modules:
                for name, fake in fakes.items():
                    if hasattr(module, name):
                        patch.setattr(module, name, fake)
            yield

    def _push(self, thread: "_Thread", until: float) -> None:
        thread.ticket += 1
        # Whoever wakes at the same time comes in any order.
        heapq.heappush(self._waiting, (until, self._draw.random(), thread.ticket, thread))

    def _wait_until(self, thread: "_Thread", until: float) -> None:
        self._push(thread, until)
        if self._go_on() is not thread:
            thread.gate.acquire()
            if self._is_over:
                raise Over

    def _go_on(self) -> "_Thread":
        """Have the thread run that wakes first."""
        while True:
            until, _, ticket, thread = heapq.heappop(self._waiting)
            if ticket == thread.ticket:
                break
        before, self._running = self._running, thread
        self.now = max(self.now, until)
        if thread is not before:
            thread.gate.release()
        return thread


class _Thread:
    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.ticket = 0
        """Of its last wait: earlier ones count no more."""
        self.real: threading.Thread | None = None
        self.error: BaseException | None = None

    def __lt__(self, other: "_Thread") -> bool:
        raise AssertionError("two waits have the same draw")


class _Queue:
    """`queue.SimpleQueue` in simulated time, for one reader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: deque[Any] = deque()
        self._reader: _Thread | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._reader is not None:
            self._clock._push(self._reader, self._clock.now)

    def get(self, timeout: float = float("inf")) -> Any:
        clock = self._clock
        until = clock.now + timeout
        while not self._items:
            if clock.now >= until:
                raise queue.Empty
            self._reader = clock._running
            clock._wait_until(self._reader, until)
            self._reader = None
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items
