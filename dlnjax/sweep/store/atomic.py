"""Files that are whole or absent, whatever happens to the process or the machine while they are written.

Every file of a sweep's folder is written under a temporary name in the folder it will live in, flushed to
the disk, and only then given its name: by a hard link when nobody may replace it (:func:`publish`), by a
rename when it may change (:func:`replace`). The folder is flushed last, so that the name survives a crash.
A kill leaves at most a temporary file; :func:`leftovers` names them.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Temporary files end so; nothing that ends so is ever read.
SUFFIX = ".tmp"
# File systems without hard links answer with one of these.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def publish(path: Path, write: Callable[[Path], None], *, flush: bool = True) -> bool:
    """Gives ``path`` its content once: the first writer wins and nobody's file is replaced.

    Where the file system knows no hard links the name is given by a rename; two writers of one name
    then write the same content, because the name is a hash of it.

    Args:
      path: final name; its folder exists.
      write: writes the content to the temporary path given to it.
      flush: wait for the disk; False where only running processes need to agree.

    Returns:
      True if this call made the file, False if it was there already.

    Raises:
      OSError: the disk is full or the folder cannot be written; no file is left behind.
    """
    temporary = _temporary(path)
    try:
        write(temporary)
        if flush:
            _flush(temporary)
        first = _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if flush:
        _flush(path.parent)
    return first


def replace(path: Path, content: str | bytes, *, flush: bool = True) -> None:
    """Gives ``path`` new content in one step: a reader sees the old file or the new one, never a part."""
    with whole(path, flush=flush) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary path for a file, or a folder, that gets the name ``path`` once the block has written it all.

    Where the block raises, nothing of it stays and ``path`` is as it was. A folder cannot replace another one.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        if flush:
            _flush_all(temporary)
        os.replace(temporary, path)
    finally:
        _remove(temporary)
    if flush:
        _flush(path.parent)


def create(path: Path, content: str, *, flush: bool = True) -> bool:
    """:func:`publish` for a short text."""
    return publish(path, lambda temporary: _write_text(temporary, content), flush=flush)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of writers that were killed, or that are writing now."""
    return sorted(folder.rglob(f".*{SUFFIX}"))


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{SUFFIX}"


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():  # these answer so whether the name is taken or not
            return False
        os.rename(temporary, path)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # what ended the writing is what the caller is to hear of
            path.unlink(missing_ok=True)


def _flush_all(path: Path) -> None:
    for inner in path.rglob("*") if path.is_dir() else ():
        _flush(inner)
    _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot flush a folder
        if error.errno not in {errno.EINVAL, errno.EBADF, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
