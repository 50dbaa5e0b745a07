"""A process that computes runs of a study, one after another, and says how they go.

It takes a run's folder and config as JSON and answers in JSON: `{"row": …}` for every round, `{"end": STATUS}` once.
"""

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fl_mlmc.own import blamed
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.log import RUN

from ..app.launch import execute, load_run
from ..app.places import RunFailed


def work(line: Connection, log: Path) -> None:
    """Compute what comes over `line` until it closes; what this process prints goes to the file `log`.

    A terminal's Ctrl-C is not for it: the parent says when to leave (SIGTERM), and leaves a sign when it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            task = json.loads(line.recv_bytes())
        except EOFError:
            return
        _tell(line, {"end": _run(line, RunConfig.from_flower(task))})


def _run(line: Connection, config: RunConfig) -> str:
    directory = Path(config.output.runs_dir) / config.output.run_name
    try:
        started = load_run(directory) if (directory / RUN).is_file() else config
        execute(started, lambda row: _tell(line, {"row": dict(row)}), tell=lambda text: print(text, file=sys.stderr))
    except RunFailed as error:
        return error.reason
    except (ConfigError, OSError, ValueError) as error:
        return str(error)
    except Exception as error:  # one run's fault ends no other
        return blamed(error)
    return "completed"


def _tell(line: Connection, said: Mapping[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line.send_bytes(json.dumps({**said, "peak_bytes": peak}).encode())


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
