"""What a run was made of, so that it goes on with the same or says what is other.

run.json holds it from the run's beginning: a digest of the data, stamps of the code, a digest of the config, the files
of the user's own and the versions of libraries. A resume makes it anew and compares.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.own import files
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.log import RoundLog, read_run, versions
from fl_mlmc.run.protocol import code_stamp, stamp_of

WHEREABOUTS = ("dataset", "data-dir", "runs-dir", "run-name", "resume")
"""Keys that may change between a run and its resume: where things lie. What the data is its digest says."""


class Difference(NamedTuple):
    """Something that is other than it was when the run began."""

    text: str
    is_grave: bool
    """Whether the rounds to come would be another run's."""


def provenance(config: RunConfig, data: FederatedData) -> dict[str, Any]:
    """What a run of `config` on `data` is made of, here and now: keys of run.json."""
    decisive = {key: value for key, value in config.to_flower().items() if key not in WHEREABOUTS}
    texts = config.own_texts().values()
    return {
        "data": {
            "digest": data.digest,
            "train_examples": data.num_train,
            "test_examples": data.num_test,
        },
        "code_stamp": code_stamp(),
        "server_code_stamp": stamp_of("simulations", "strategies"),
        "config_digest": blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=8).hexdigest(),
        "own_files": digests(files(texts)),
        "versions": versions(),
    }


def digests(found: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """Of each file's bytes, BLAKE2b in 16 hexadecimal digits, by the name it has at home."""
    return {home: blake2b(path.read_bytes(), digest_size=8).hexdigest() for home, path in found}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What of `now` is not as run.json, `then`, has it."""
    found = []
    if then.get("data") != now["data"]:
        found.append(Difference(f"the data: it was {_data(then.get('data'))}, it is {_data(now['data'])}", True))
    for key, name in (
        ("code_stamp", "the code of fl_mlmc and clients"),
        ("server_code_stamp", "the code of simulations and strategies"),
        ("config_digest", "the config, run.json was edited"),
    ):
        if then.get(key) != now[key]:
            found.append(Difference(f"{name}: its digest was {then.get(key, 'not noted')}, it is {now[key]}", True))
    for path in sorted(then.get("own_files", {}).keys() | now["own_files"].keys()):
        before, after = then.get("own_files", {}).get(path), now["own_files"].get(path)
        if before != after:
            found.append(Difference(f"the file {path}: its digest was {before}, it is {after}", True))
    for name, version in now["versions"].items():
        before = then.get("versions", {}).get(name, "not noted")
        if before != version:
            found.append(Difference(f"the version of {name}: it was {before}, it is {version}", False))
    return found


def check_resume(
    directory: Path,
    config: RunConfig,
    data: FederatedData,
    server_round: int,
    force: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """See that the run in `directory` goes on after `server_round` with what it began with.

    `tell` hears what is other. ConfigError on other data, code or config, unless by `force`. run.json then notes what
    was other, and holds what the run is made of from now on. The caller has the run's lock.
    """
    then, now = read_run(directory), provenance(config, data)
    found = differences(then, now)
    grave = [difference.text for difference in found if difference.is_grave]
    if grave and not force:
        listed = "".join(f"\n  {difference.text}" for difference in found)
        raise ConfigError(
            f"{directory} would go on with something else than it began with:{listed}\n"
            f"Put back what it began with, or go on all the same with --force; run.json then notes it"
        )
    for difference in found:
        tell(f"other than when the run began: {difference.text}")
    if found:
        note = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "after_round": server_round,
            "forced": bool(grave),
            "differences": [difference.text for difference in found],
        }
        RoundLog(directory).update({**now, "resumed": [*then.get("resumed", []), note]})


def _data(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return "not noted"
    return f"{data['digest']} ({data['train_examples']} training and {data['test_examples']} test examples)"
