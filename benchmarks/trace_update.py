"""One client's update, from the end of its training to the server's stepped model: the files that it passes.

    python benchmarks/trace_update.py [--compressor TEXT]

A round of two clients, of a tier each, runs in this process (engine `local`, digits, mlp), and the update of the second
is followed; what the first built once is there by then. A file of ours is *passed* when one of its functions is entered
or left on that way. A *return* is a call into a file that was passed before, out of another of our files: a reader who
follows the update must come back to it. List and dict comprehensions are part of the function that they stand in.

Fewer of both is easier to read, down to the point where one file holds two ideas. On 27 November 2026, before the rooms
of today, it was 38 files and 43 returns.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.server_app import serve

ROOT = Path(__file__).parents[1]
OURS = ("fl_mlmc", "clients", "strategies", "simulations")

BEGINS = ("fl_mlmc/training/local.py", "train")
"""The function whose end is the end of a client's training."""
ENDS = ("fl_mlmc/aggregation/server_step.py", "ServerOptimizer.step")
"""The function that gives the server's stepped model."""

INLINE = ("<listcomp>", "<dictcomp>", "<setcomp>")
NUM_CLIENTS = 2


@dataclass
class Way:
    """What an update passed: pairs of a file, from the repository's root, and a function."""

    entered: list[tuple[str, str]] = field(default_factory=list)
    """Calls in their order."""
    passed: list[tuple[str, str]] = field(default_factory=list)
    """Entered or left, in the order of the first time."""

    @property
    def files(self) -> list[str]:
        """The files passed, in the order of the first time."""
        return list(dict.fromkeys(file for file, _ in self.passed))

    @property
    def returns(self) -> list[tuple[str, str]]:
        """Calls that came back to a file out of another one."""
        back, seen, last = [], set(self.files[:1]), self.files[0]
        for file, function in self.entered:
            if file != last and file in seen:
                back.append((file, function))
            seen.add(file)
            last = file
        return back


def trace(compressor: str = "MLMC(TopK(fraction=0.05))") -> Way:
    """The way of the last client's update in a round whose uplink compressor is `compressor`."""
    way, trained, done = Way(), 0, False
    names: dict[CodeType, tuple[str, str] | None] = {}

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal trained, done
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in names:
            names[code] = _ours(code)
        if (place := names[code]) is None or done:
            return
        trained += event == "return" and place == BEGINS
        if trained == NUM_CLIENTS:
            if event == "call":
                way.entered.append(place)
            way.passed.append(place)
            done = event == "return" and place == ENDS

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig().changed(
            engine="local",
            dataset="digits",
            model="mlp",
            compressor=compressor,
            tiers="half:0.5:0.5,full:1:0.5",
            num_clients=NUM_CLIENTS,
            clients_per_round=NUM_CLIENTS,
            num_rounds=1,
            local_epochs=1,
            runs_dir=folder,
            run_name="traced",
        )
        sys.setprofile(look)
        try:
            serve(config)
        finally:
            sys.setprofile(None)
    if not done:
        raise RuntimeError(f"the round passed {trained} ends of training and no server step after them")
    return way


def _ours(code: CodeType) -> tuple[str, str] | None:
    """The file and the function of `code`; None if it is not ours."""
    path = Path(code.co_filename)
    if code.co_qualname.endswith(INLINE) or not path.is_relative_to(ROOT):
        return None
    file = path.relative_to(ROOT)
    return (file.as_posix(), code.co_qualname) if file.parts[0] in OURS else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressor", default="MLMC(TopK(fraction=0.05))")
    way = trace(parser.parse_args().compressor)
    for number, file in enumerate(way.files, start=1):
        functions = dict.fromkeys(function for place, function in way.passed if place == file)
        print(f"{number:3d} {file}: {', '.join(functions)}")
    print()
    for file, function in way.returns:
        print(f"  back to {file}: {function}")
    print(f"\n{len(way.files)} files, {len(way.returns)} returns")


if __name__ == "__main__":
    main()
