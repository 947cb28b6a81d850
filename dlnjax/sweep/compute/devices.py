"""Settings of a process that runs cells, made before JAX starts: devices, precision, compilation cache.

Only the command and its workers call this: a library must not change JAX's global configuration. What the
user has set in the environment (``JAX_NUM_CPU_DEVICES``, ``XLA_FLAGS``, ``JAX_COMPILATION_CACHE_DIR``) stays.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

#: Seconds after which a thread that compiles or writes lets the one that feeds the devices go on: with every array
#: that one gives the interpreter up, and Python's usual 5 ms to have it back add up to a third of a second per shard.
_SWITCH_INTERVAL = 2e-4
#: Programs that compile faster than this are not worth a file.
_WORTH_KEEPING = 0.1  # seconds


def prepare(precision: str, *, cpu_devices: int | None = None) -> None:
    """Set up this process for a sweep; call it before the first JAX array or device is asked for.

    Args:
      precision: ``float64`` (switches x64 on) or ``float32`` (switches it off).
      cpu_devices: host devices to make, at least 1; None for one a core that this process may use.

    Raises:
      ValueError: another precision.
      RuntimeError: JAX has started already with another number of devices; call this earlier.
    """
    if precision not in ("float32", "float64"):
        raise ValueError(f"precision {precision!r} is not known; give float32 or float64")
    import jax

    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
    jax.config.update("jax_enable_x64", precision == "float64")
    _count(cores() if cpu_devices is None else cpu_devices)
    folder = cache_folder()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)


def cores() -> int:
    """How many cores this process may use, at least 1; below the machine's count in a container or a job."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def cache_folder() -> Path | None:
    """The user's folder for compiled programs; None where the user named one or none can be written.

    Compiled CPU programs hold for one kind of processor: machines that share a home get a folder each.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    folder = _caches() / "dlnjax" / f"xla-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _count(number: int) -> None:
    """Set the number of host devices, unless the environment already has."""
    import jax

    named = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if (
        named
        or os.environ.get("JAX_NUM_CPU_DEVICES")
        or number == getattr(jax.config, "jax_num_cpu_devices", None)
    ):
        return
    jax.config.update("jax_num_cpu_devices", number)


def _caches() -> Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / "Library" / "Caches" if sys.platform == "darwin" else Path.home() / ".cache"


def _processor() -> str:
    """A short name for the kind of processor: its model and instruction sets, hashed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        kind = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()[:12]
