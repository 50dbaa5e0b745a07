"""The ledger of releases: every noisy model that a run ever made, each written down before it is made.

RUN_DIR/releases.jsonl has a JSON object a line. A line is on the disk before the noise is drawn. So whenever a run is
killed, the ledger holds all noisy models that anybody can have seen, and at most one that was never made. A run that
goes on from a checkpoint makes some rounds a second time, with new noise: their models are in the ledger twice, as they
are in the world, and the log's ε is that of all of them.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path

from ..run.disk import sync

RELEASES = "releases.jsonl"
"""The ledger's name in a run's directory."""


class LedgerError(ValueError):
    """A ledger that does not hold what it must: what a run has cost is not known, so it cannot go on."""


@dataclass(frozen=True)
class Mechanism:
    """What decides the cost of one noisy model: the sum of a cohort's clipped updates, with Gaussian noise."""

    noise: float
    """Deviation of the noise, in units of the clip."""
    cohort_size: int
    num_clients: int
    """Of which the cohort is drawn uniformly, without replacement."""


@dataclass(frozen=True)
class Release:
    """A line of the ledger."""

    number: int
    """From 1, without a gap."""
    server_round: int
    mechanism: Mechanism


class Ledger:
    """The releases of one run; opened for writing by the one process that makes them.

    A file that is not there is begun. What a killed process left of its last line is cut away: the noise of a line that
    is not whole was never drawn. LedgerError if the file is damaged otherwise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        is_new = not path.exists()
        releases, num_bytes = ([], 0) if is_new else _read(path)
        self._counts = Counter(release.mechanism for release in releases)
        with open(path, "ab") as file:
            file.truncate(num_bytes)
            os.fsync(file.fileno())
        if is_new:
            sync(path.parent)

    def __len__(self) -> int:
        """How many noisy models there are."""
        return self._counts.total()

    def add(self, server_round: int, mechanism: Mechanism) -> None:
        """Write down a model that is about to be made; it is on the disk when this returns. OSError if it is not."""
        release = {"number": len(self) + 1, "round": server_round, **asdict(mechanism)}
        whole = self._path.stat().st_size
        try:
            with open(self._path, "ab") as file:
                file.write((json.dumps(release) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a full disk takes the first part of a line
            with suppress(OSError):
                os.truncate(self._path, whole)
            raise
        self._counts[mechanism] += 1

    def epsilon(self, delta: float) -> float:
        """The ε at `delta` that all releases together cost, 0 for none; ValueError where nothing can count it."""
        return epsilon(self._counts, delta)


def epsilon(releases: Mapping[Mechanism, int], delta: float) -> float:
    """ε of (ε, δ)-differential privacy after so many releases of each kind, each of a secret cohort of its own.

    Neighbouring populations differ in one client's examples (replace-one), so a sum moves by up to twice the clip.
    Rényi DP of the sampled Gaussian mechanism, composed by dp-accounting: `pip install 'fl-mlmc[privacy]'`, without
    which this is a ValueError. A second or two of work, done once for equal releases.
    """
    return _epsilon(frozenset(item for item in releases.items() if item[1]), delta)


@lru_cache(maxsize=1024)
def _epsilon(releases: frozenset[tuple[Mechanism, int]], delta: float) -> float:
    try:
        from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
        from dp_accounting.rdp import RdpAccountant
    except ImportError:
        raise ValueError(
            "dp-noise needs dp-accounting to say what it amounts to: `pip install 'fl-mlmc[privacy]'`"
        ) from None
    if not releases:
        return 0.0
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    for made, count in sorted(releases, key=lambda item: astuple(item[0])):
        gaussian = GaussianDpEvent(made.noise / 2)
        accountant.compose(SampledWithoutReplacementDpEvent(made.num_clients, made.cohort_size, gaussian), count)
    return float(accountant.get_epsilon(delta))


def check_ledger(path: Path, at_least: int | None) -> None:
    """LedgerError if a private run cannot go on by the ledger in `path`.

    It must be there and hold `at_least` as many releases as the run's checkpoint counted; None: it counted none, as
    checkpoints did before there were ledgers.
    """
    remedy = "what its models cost is not known: begin a new run, or bring back the file"
    if at_least is None:
        raise LedgerError(f"the run's checkpoint counts no releases, it is older than {RELEASES}; {remedy}")
    if not path.exists():
        raise LedgerError(f"a private run has no {path}, the ledger of its releases; {remedy}")
    if (found := len(_read(path)[0])) < at_least:
        raise LedgerError(f"{path} holds {found} releases, the run's checkpoint counted {at_least}; {remedy}")


def _read(path: Path) -> tuple[list[Release], int]:
    """The whole lines of a ledger, and how many bytes they are."""
    data = path.read_bytes()
    num_bytes = data.rfind(b"\n") + 1
    lines = data[:num_bytes].splitlines()
    return [_parsed(path, line, number) for number, line in enumerate(lines, start=1)], num_bytes


def _parsed(path: Path, line: bytes, number: int) -> Release:
    try:
        row = json.loads(line)
        made = Mechanism(**{field.name: row[field.name] for field in fields(Mechanism)})
        release = Release(row["number"], row["round"], made)
        if release.number == number and made.noise > 0 and 0 < made.cohort_size <= made.num_clients:
            return release
    except (ValueError, TypeError, KeyError):
        pass
    raise LedgerError(f"line {number} of {path} is {line[:80]!r}, expected release {number}: the file is damaged")
