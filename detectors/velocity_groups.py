"""Grouping equal hashes without sorting them (NumPy sorts a number in 30 ns, and puts it into a table in 5); ranges."""

from typing import Final

import numpy as np

from detectors.velocity import Hashes, Integers

_ODD: Final = 0x9E3779B97F4A7C15
_RADIX_MAX: Final = 1 << 16


def representatives(hashes: Hashes) -> Integers:
    """Give each element one element equal to it, the same for all equal ones: int64[n], places in `hashes`.

    Elements are written into a table by some of their bits. Who finds an equal one in its place (at least the one
    written last finds itself) is done; the others try again with other bits.
    """
    found = np.arange(len(hashes))
    pending, turn = found, 0
    while len(pending):
        bits = len(pending).bit_length() + 1
        multiplier = np.uint64(_ODD * (2 * turn + 1) % 2**64)
        mine = hashes[pending]
        slot = ((mine * multiplier) >> np.uint64(64 - bits)).astype(np.int64)
        table = np.empty(1 << bits, dtype=np.int32)
        table[slot] = pending
        winner = table[slot]
        equal = hashes[winner] == mine
        if turn == 0:
            found = np.where(equal, winner, found)
        else:
            found[pending[equal]] = winner[equal]
        pending, turn = pending[~equal], turn + 1
    return found


def grouped(group: Integers) -> Integers:
    """Give a stable order that puts equal numbers next to each other; small numbers are ordered fastest."""
    small = group.max(initial=0) < _RADIX_MAX
    return np.argsort(group.astype(np.uint16) if small else group, kind="stable")


def expand(start: Integers, length: Integers) -> tuple[Integers, Integers]:
    """List the numbers of ranges one after the other, and beside each number which range it is of."""
    which = np.repeat(np.arange(len(length)), length)
    offset = start - (np.cumsum(length) - length)
    return which, np.arange(len(which)) + offset[which]
