"""What differs between operating systems: locks, and the memory of a process."""

import sys
from contextlib import suppress
from importlib import import_module
from typing import IO, Any


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:  # of another system
        return None


fcntl, resource, msvcrt = map(_module, ("fcntl", "resource", "msvcrt"))


def lock(file: IO[str]) -> bool:
    """Hold an open, writable file for this process until it is closed; False: another holds it.

    True also where there are no locks, on some network folders: there one has to look out oneself.
    """
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def peak_memory() -> int:
    """The most bytes of memory that this process has had resident; 0 where nobody says."""
    if resource is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    with suppress(ImportError):
        import psutil

        now = psutil.Process().memory_info()
        return getattr(now, "peak_wset", now.rss)  # its peak is Windows' own figure
    return 0
