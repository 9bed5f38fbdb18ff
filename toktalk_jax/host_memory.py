"""What the C library does with memory that XLA frees on a CPU."""

import contextlib
import ctypes

# Of mallopt(3).
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
MOST = 2**31 - 1


def keep_freed():
    """Let this process keep what it frees, to its end; nothing but glibc is told.

    XLA on a CPU takes the buffers of every step from malloc. glibc maps the large ones
    and gives them back at once, so that the kernel clears each page again at the next
    step: a third of a training step of `configs/small.py`.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, MOST), (ARENA_MAX, 1)):
            mallopt(option, value)
