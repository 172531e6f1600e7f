"""Files that other processes may look at: written whole or not at all, made by one process at a time.

Must not know: what is in them. Invariant: a name holds what it held, or all of the new content, whatever ends the program; where a
file cannot be written the program ends with one line that names it.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what is to be `path`: beside it, under a name of the same ending."""
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        sys.exit(f"{path}: cannot be written ({error.strerror or error})")
    finally:
        part.unlink(missing_ok=True)


def write(contents: dict[Path, bytes]) -> None:
    """All of them or none: the first takes its name when the last is on the disk."""
    with ExitStack() as parts:
        for path, content in reversed(contents.items()):
            parts.enter_context(whole(path)).write_bytes(content)


def _locked(folder: Path) -> tuple[TextIO, bool]:
    """The folder's lock, and whether it is ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")
    except OSError as error:
        sys.exit(f"{folder}: cannot be written into ({error.strerror})")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return lock, False
    return lock, True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    lock, is_ours = _locked(folder)
    with lock:
        if not is_ours:
            print(f"waiting for another process at work in {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_held: dict[Path, TextIO] = {}


def hold(folder: Path) -> None:
    """The folder of a run is this process's as long as it lives; the program ends where it is another's."""
    folder = folder.resolve()
    if folder not in _held:
        lock, is_ours = _locked(folder)
        if not is_ours:
            sys.exit(f"{folder.name} is being trained by another process ({folder})")
        _held[folder] = lock


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """As `hold`, to the end of the block where the process did not hold it before."""
    was_ours = folder.resolve() in _held
    hold(folder)
    try:
        yield
    finally:
        if not was_ours:
            _held.pop(folder.resolve()).close()
