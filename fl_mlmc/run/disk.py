"""What a power cut may not take: files and folders that are on the disk, not on the way to it."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, reach the disk before this returns; OSError if they do not.

    A new, renamed or deleted file is so on the disk once its folder is synced; that is not part of syncing the file.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path, durable: bool = True) -> None:
    """Make a folder and those above it, unless they are there; `durable`: on the disk, by their names above them."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing if durable else []):
        sync(folder.parent)
