"""A seal: the hash of a file's bytes inside the file itself, so that one changed byte anywhere is seen.

The writer leaves :data:`BLANK` under the key :data:`KEY` somewhere in the content; :func:`sealed` puts the hash of the
content with the blank in its place there. Files of versions that had no seal carry neither the key nor the prefix;
a file with one of them must carry a right seal, so that a byte changed in the seal itself does not hide it.
"""

from __future__ import annotations

import hashlib

#: The key or word beside the seal, and the start of the seal itself.
KEY, _PREFIX = "dlnjax_seal", "seal-sha256:"
_DIGITS = 64
#: What stands where the seal will be.
BLANK = _PREFIX + "0" * _DIGITS


def sealed(content: bytes) -> bytes:
    """The content with its seal in the place of the last :data:`BLANK`.

    Raises:
      ValueError: there is no blank.
    """
    start = content.rindex(BLANK.encode()) + len(_PREFIX)
    return b"".join([content[:start], _hash(content, start), content[start + _DIGITS :]])


def line(text: str) -> str:
    """A short text with a seal on a line of its own at the end."""
    return sealed(f"{text}\n{KEY} {BLANK}\n".encode()).decode()


def is_right(content: bytes) -> bool | None:
    """Whether the bytes are those that were sealed; None where the file is of a version without seals."""
    at, key = content.rfind(_PREFIX.encode()), content.rfind(KEY.encode())
    if at < 0 and key < 0:
        return None
    start = at + len(_PREFIX)
    return at >= 0 and content[start : start + _DIGITS] == _hash(content, start)


def _hash(content: bytes, start: int) -> bytes:
    """sha256 (hexadecimal) of the content with zeros in the place of the seal."""
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(b"0" * _DIGITS)
    digest.update(view[start + _DIGITS :])
    return digest.hexdigest().encode()
