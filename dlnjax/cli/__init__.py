"""The ``dlnjax`` command: new, run, status, verify, report, export, reproduce, bench, doctor, completion.

The arguments are read by argparse, from the standard library: the help must come up in well under a second, and on an
installation of the library alone, whose users it has to tell which extra they lack. Parsing imports neither JAX nor
any extra; each command imports what it needs.

Exit codes: 0 all well; 1 some cells failed, or something is damaged or went wrong on this machine; 2 a
mistake in what the user gave, or a missing extra; 130 Ctrl-C; 143 SIGTERM. A mistake takes one line on
standard error, without a traceback (``DLNJAX_TRACEBACK=1`` shows it). Nothing is coloured, so NO_COLOR holds.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from dlnjax.cli import extras, parser

_NOT_THE_USER = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN,
    errno.ECONNABORTED,
}  # fmt: skip
# What Python says where a limit on processes or on memory forbids another thread.
_NO_THREAD = "can't start new thread"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv[1:]`` if None); the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["__complete"]:  # a shell asks, at every press of the key
        from dlnjax.cli import complete

        sys.stdout.writelines(f"{answer}\n" for answer in complete.answers(words[1:] or [""]))
        return 0
    args = parser.parse(words)
    try:
        from dlnjax.cli import commands

        code = commands.COMMANDS[args.command](args)
        if sys.stdout is not None:  # None where the shell closed it
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("interrupted; what is complete is kept, the same command finishes the rest", 130)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except (ImportError, OSError, ValueError) as error:
        if os.environ.get("DLNJAX_TRACEBACK"):
            raise
        return _explain(error)
    except (MemoryError, RuntimeError) as error:
        limited = isinstance(error, MemoryError) or _NO_THREAD in str(error)
        if os.environ.get("DLNJAX_TRACEBACK") or not limited:
            raise
        return _explain(OSError(errno.ENOMEM, f"this machine gives no more ({error or 'out of memory'})"))


def _explain(error: Exception) -> int:
    """Tell an expected kind of error in its own words; the exit code."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        return _say(f"{module} is not installed; pip install {extras.remedy(module)}", 2)
    if isinstance(error, OSError) and error.errno is not None:  # else one of ours, with its remedy
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _NOT_THE_USER:
            return _say(f"{where}{error.strerror}; what is complete is kept, mend this and run it again", 1)
        return _say(f"{where}{error.strerror or error}; choose a place that can be read and written", 2)
    if hasattr(error, "lines"):  # a config's mistakes begin with the config's name
        print(error, file=sys.stderr)
        return 2
    return _say(str(error) or type(error).__name__, 2)


def _say(text: str, code: int) -> int:
    print("\n".join(f"dlnjax: {line}" for line in text.splitlines()), file=sys.stderr)
    return code
