"""A disk that fails as disks do, under a folder of the real one.

Everything that changes a file goes through here while `mounted`: each such step is an event with a number, and a fault
strikes at one. What the program sees is real files. Beside them stands what would be left if the power went now: of a
file what was synced last, and any beginning of what was written since, or zeros in its place; of a folder the names
that were there when it was synced, and any first few of the changes since.
"""

import errno
import io
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from torch import Tensor

from fl_mlmc.strategies import checkpoint

CALLS = ["mkdir", "rmdir", "unlink", "remove", "replace", "rename", "symlink", "truncate", "fsync", "open"]
KINDS = ("kill", "power", "full", "broken", "short")


class Killed(BaseException):
    """The process ends here; nothing that it does afterwards reaches the disk."""


@dataclass(frozen=True)
class DiskFault:
    """What happens at the `event`-th change of a file.

    "kill": the process ends, in the middle of a write; "power": so does the machine; "full": no space for `length`
    events; "broken": one input or output error; "short": writes take a part of what they are given, from then on.
    """

    kind: str
    event: int
    length: int = 1


@dataclass(eq=False)
class _Node:
    """A file, folder or link of the shadow."""

    kind: str
    entries: dict[str, "_Node"] = field(default_factory=dict)
    """Of a folder, now."""
    durable: dict[str, "_Node"] = field(default_factory=dict)
    """Of a folder, when it was synced last."""
    pending: list[Callable[[dict[str, "_Node"]], object]] = field(default_factory=list)
    """Of a folder: changes of its names since."""
    synced: bytes = b""
    """Of a file; where a link leads to."""
    is_dirty: bool = False
    floor: int = 0
    """Of a file: how many of the synced bytes nothing was done to since."""
    last: bytes = b""
    """Of a file without a name: what it held."""


class Disk:
    """The disk under `root`, an empty folder."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self._real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in CALLS}
        self._real_open = io.open
        self._draw = random.Random(seed)
        self._top = _Node("folder")
        self._fault: DiskFault | None = None
        self.num_events = 0
        self.has_struck = False
        self.is_dead = False

    @contextmanager
    def mounted(self, fault: DiskFault | None) -> Iterator[None]:
        """Have this process's files under the root go through here; `fault` strikes once."""
        self._fault, self.num_events, self.has_struck, self.is_dead = fault, 0, False, False
        with pytest.MonkeyPatch.context() as patch:
            for name, replaced in self._calls().items():
                patch.setattr(os, name, replaced)
            patch.setattr(io, "open", self._open)
            patch.setattr("builtins.open", self._open)
            patch.setattr(checkpoint, "save_file", self._save_file)
            yield

    def cut_power(self) -> None:
        """Leave on the disk what was synced, and as much of the rest as the seed says."""
        contents: dict[_Node, bytes] = {}
        self._collect(self._top, self.root, contents)
        for entry in os.scandir(self.root):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        self._settle(self._top, contents, {})
        self._write(self._top, self.root)

    # What would be left

    def _collect(self, folder: _Node, place: Path, contents: dict[_Node, bytes]) -> None:
        for name, node in folder.entries.items():
            if node.kind == "folder":
                self._collect(node, place / name, contents)
            elif node.kind == "file":
                contents[node] = (place / name).read_bytes()

    def _settle(self, folder: _Node, contents: Mapping[_Node, bytes], done: dict[_Node, bool]) -> None:
        if folder in done:
            return
        done[folder] = True
        left = dict(folder.durable)
        for change in folder.pending[: self._draw.randint(0, len(folder.pending))]:
            change(left)
        folder.entries, folder.durable, folder.pending = left, dict(left), []
        for node in left.values():
            if node.kind == "folder":
                self._settle(node, contents, done)
            elif node.kind == "file" and node.is_dirty and node not in done:
                done[node] = True
                node.synced, node.is_dirty = self._torn(node, contents.get(node, node.last)), False
                node.floor = len(node.synced)

    def _torn(self, node: _Node, content: bytes) -> bytes:
        """What a file may hold that was synced before it came to hold `content`."""
        written = content[node.floor :]
        kept = written[: self._draw.randint(0, len(written))]
        zeros = bytes(len(written) - len(kept))
        before = node.synced[node.floor :]
        return node.synced[: node.floor] + self._draw.choice((b"", before, written, kept, kept + zeros))

    def _write(self, folder: _Node, place: Path) -> None:
        for name, node in folder.entries.items():
            if node.kind == "folder":
                (place / name).mkdir()
                self._write(node, place / name)
            elif node.kind == "link":
                (place / name).symlink_to(os.fsdecode(node.synced))
            else:
                (place / name).write_bytes(node.synced)

    # Events

    def event(self, can_fill: bool = False, can_break: bool = True) -> None:
        """A change is about to be made; OSError or `Killed` if it is not."""
        self.check_alive()
        self.num_events += 1
        fault, at = self._fault, self.num_events
        if fault is None or at < fault.event:
            return
        if fault.kind in ("kill", "power") and at == fault.event:
            self._die()
        if fault.kind == "full" and can_fill and at < fault.event + fault.length:
            self.has_struck = True
            raise OSError(errno.ENOSPC, "No space left on device")
        if fault.kind == "broken" and can_break and not self.has_struck:
            self.has_struck = True
            raise OSError(errno.EIO, "Input/output error")

    def check_alive(self) -> None:
        """`Killed` if the process has ended."""
        if self.is_dead:
            raise Killed

    def write_event(self, size: int) -> int:
        """How much of a write of `size` bytes is done; what does not follow is for the next one."""
        self.check_alive()
        fault, at = self._fault, self.num_events + 1
        if fault is not None and size > 1 and at >= fault.event:
            is_first = at == fault.event and not self.has_struck and fault.kind in ("kill", "full", "power")
            if is_first or fault.kind == "short":
                self.has_struck = True
                return self._draw.randint(1, size - 1)
        self.event(can_fill=True)
        return size

    def after_part(self) -> None:
        """A part of a write is done: what ends the process ends it now."""
        fault = self._fault
        if fault is not None and fault.kind in ("kill", "power") and self.num_events + 1 == fault.event:
            self._die()

    def _die(self) -> None:
        self.has_struck = self.is_dead = True
        raise Killed

    # The calls

    def _calls(self) -> dict[str, Callable[..., Any]]:
        real, inside = self._real, self._inside

        def mkdir(path: Any, *args: Any, **options: Any) -> None:
            if (here := inside(path)) is None or os.path.lexists(path):
                real["mkdir"](path, *args, **options)
                return
            self.event(can_fill=True)
            real["mkdir"](path, *args, **options)
            self._set(here, _Node("folder"))

        def symlink(target: Any, path: Any, *args: Any, **options: Any) -> None:
            if (here := inside(path)) is None:
                real["symlink"](target, path, *args, **options)
                return
            self.event(can_fill=True)
            real["symlink"](target, path, *args, **options)
            self._set(here, _Node("link", synced=os.fsencode(target)))

        def gone(name: str) -> Callable[..., None]:
            def call(path: Any, *, dir_fd: int | None = None) -> None:
                if (here := inside(path, dir_fd)) is None or not os.path.lexists(self.root / here):
                    real[name](path, dir_fd=dir_fd)
                    return
                self.event()
                self._keep(here)
                real[name](path, dir_fd=dir_fd)
                parent, last = self._parent(here)
                self._change(parent, lambda entries: entries.pop(last, None))

            return call

        def moved(name: str) -> Callable[..., None]:
            def call(source: Any, target: Any, **options: Any) -> None:
                before, after = inside(source), inside(target)
                if before is None or after is None:
                    real[name](source, target, **options)
                    return
                assert before.parent == after.parent, "a move between folders has no shadow here"
                self.event()
                self._keep(after)
                real[name](source, target, **options)
                parent, old = self._parent(before)
                node, new = parent.entries[old], after.name

                def change(entries: dict[str, _Node]) -> None:
                    entries.pop(old, None)
                    entries[new] = node

                self._change(parent, change)

            return call

        def truncate(path: Any, length: int) -> None:
            if (here := inside(path)) is None or os.path.getsize(path) == length:
                real["truncate"](path, length)
                return
            self.event()
            real["truncate"](path, length)
            node = self._node(here)
            node.is_dirty, node.floor = True, min(node.floor, length)

        def fsync(handle: int) -> None:
            if (here := inside(handle)) is None:
                real["fsync"](handle)
                return
            self.event()
            node = self._node(here)
            if node.kind == "folder":
                node.durable, node.pending = dict(node.entries), []
            else:
                node.synced, node.is_dirty = (self.root / here).read_bytes(), False
                node.floor = len(node.synced)

        def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_CREAT and (here := inside(path, dir_fd)) is not None:
                self._before_open(here, is_cut=bool(flags & os.O_TRUNC))
            return real["open"](path, flags, mode, dir_fd=dir_fd)

        moves = {name: moved(name) for name in ("replace", "rename")}
        ends = {name: gone(name) for name in ("unlink", "remove", "rmdir")}
        others = {"mkdir": mkdir, "symlink": symlink, "truncate": truncate, "fsync": fsync, "open": opened}
        return {**moves, **ends, **others}

    def _open(self, path: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        here = None if isinstance(path, int) else self._inside(path)
        if here is None or not set(mode) & set("wax+"):
            return self._real_open(path, mode, buffering, *args, **options)
        self._before_open(here, is_cut="w" in mode)
        raw = _File(self, self._node(here), path, mode)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **options)

    def _before_open(self, here: Path, is_cut: bool) -> None:
        path = self.root / here
        is_there = path.exists()
        if is_there and not (is_cut and path.stat().st_size):
            return
        self.event(can_fill=not is_there)
        os.close(self._real["open"](path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if is_cut else 0), 0o666))
        if is_there:
            node = self._node(here)
            node.is_dirty, node.floor = True, 0
        else:
            self._set(here, _Node("file"))

    def _save_file(self, tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        """What safetensors does in a language that knows nothing of this disk."""
        with self._open(path, "wb") as file:
            file.write(save(tensors, metadata))

    # The shadow

    def _inside(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """Where a path, or what is open under a number, lies below the root; None if it does not."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
        full = os.fspath(path)
        return (
            Path(full).relative_to(self.root)
            if str(full).startswith(f"{self.root}/") or full == str(self.root)
            else None
        )

    def _node(self, here: Path) -> _Node:
        node = self._top
        for part in here.parts:
            node = node.entries[part]
            if node.kind == "link":
                raise AssertionError(f"{here} goes through a link")
        return node

    def _parent(self, here: Path) -> tuple[_Node, str]:
        return self._node(here.parent), here.name

    def _set(self, here: Path, node: _Node) -> None:
        parent, name = self._parent(here)
        self._change(parent, lambda entries: entries.__setitem__(name, node))

    def _change(self, folder: _Node, change: Callable[[dict[str, _Node]], object]) -> None:
        change(folder.entries)
        folder.pending.append(change)

    def _keep(self, here: Path) -> None:
        """Remember what a file holds that is about to lose its name."""
        path = self.root / here
        if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode):
            self._node(here).last = path.read_bytes()


class _File(io.FileIO):
    """A file of the disk, open for writing."""

    def __init__(self, disk: Disk, node: _Node, path: Any, mode: str) -> None:
        self._disk, self._node = disk, node
        super().__init__(path, mode.replace("b", "").replace("t", ""))

    def write(self, data: Any) -> int:
        disk, view = self._disk, memoryview(data).cast("B")
        if disk.is_dead:  # buffers that are flushed as the process is cleared away
            return len(view)
        size = disk.write_event(len(view))
        done = super().write(view[:size]) or 0
        self._node.is_dirty = True
        if size < len(view):
            disk.after_part()
        return done

    def truncate(self, size: int | None = None) -> int:
        self._disk.event()
        size = self.tell() if size is None else size
        self._node.is_dirty, self._node.floor = True, min(self._node.floor, size)
        return super().truncate(size)
