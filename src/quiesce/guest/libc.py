"""Two calls of the C library that Python has no names for. Both only improve matters."""

import os

try:
    import ctypes
except ImportError:  # Debian's python3-minimal has none
    ctypes = None  # type: ignore[assignment]

_MCL_CURRENT, _MCL_FUTURE = 1, 2


def lock_memory() -> str:
    """Keep this process's memory from ever being swapped; returns why it could not, or ""."""
    if ctypes is None:
        return "this Python has no ctypes"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        return os.strerror(ctypes.get_errno())
    return ""


def write_back(fd: int) -> str:
    """syncfs(2): write back the file system of `fd`; returns why it could not, or ""."""
    if ctypes is None:
        return "this Python has no ctypes"
    libc = ctypes.CDLL(None, use_errno=True)
    return os.strerror(ctypes.get_errno()) if libc.syncfs(fd) != 0 else ""
