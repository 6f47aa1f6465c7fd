"""How this process's memory is allocated: volumes of megabytes come and go with each study.

glibc gives the kernel back what it can of each large block, and asks for it again for the next: every page is then
fetched, zeroed and mapped anew, which costs more than to send the volume. The largest blocks go back all the same:
what they leave behind would be as large as they, and their time goes into the model.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""glibc's malloc.h."""

LARGE = 64 * 2**20
"""Bytes of a block that goes back to the kernel when it is freed; smaller ones are kept."""

_KEPT = 256 * 2**20
"""Free bytes at the end of the pool that are kept: several volumes below `LARGE`."""

_PAD = 16 * 2**20


def keep_freed_memory() -> bool:
    """Have the process keep what it frees, for the next volume. False where the C library is not glibc.

    To be called before threads start: they share one pool of memory from then on, since what one had freed into its
    own could not be used by the others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    options = {_MMAP_THRESHOLD: LARGE, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _PAD, _ARENA_MAX: 1}
    done = [mallopt(option, value) for option, value in options.items()]
    return all(done)


def give_back_freed_memory() -> None:
    """Give the kernel all whole pages that the process has freed; nothing happens where it is not glibc."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
