"""What a process that works on batches asks of Python's collector and of the C library's allocator."""

import ctypes
import gc

MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def calm_memory() -> None:
    """Keep collector and allocator off the hot path: a batch makes thousands of values and a few large arrays.

    What was imported is never garbage and is not looked at again; young values, which hardly form cycles, are looked at
    once in some batches. Where the C library is glibc, arrays are cut from the heap, not mapped anew for every batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOPT_MMAP_THRESHOLD, 100_000_000)
        mallopt(MALLOPT_TRIM_THRESHOLD, 1_000_000_000)
