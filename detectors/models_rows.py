"""Labelled rows that are kept and never learned from, to compare snapshots on; and what River's learners can't know.

One row in `every` of each class goes here instead of into the models. Champion and challenger are both strangers to
them, at any time, so a comparison needs no waiting for new labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.layout import Floats
from detectors.models import WIDE, Arrays


@dataclass(frozen=True)
class HeldOut:
    """Rows kept for comparing: `inputs` float64[n, WIDE] as `squash` gives them, `fraud` bool[n], `programs` of n."""

    inputs: Floats
    fraud: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    programs: Sequence[str]


class Ring:
    """The last `most` rows of one class, oldest first, in one array."""

    def __init__(self, most: int) -> None:
        self._rows = np.zeros((most, WIDE))
        self._programs: list[str] = [""] * most
        self._put = 0

    def __len__(self) -> int:
        return min(self._put, len(self._rows))

    def put(self, inputs: Floats, program: str) -> None:
        """Keep one more row (float64[WIDE]), in the place of the oldest if there is no other."""
        at = self._put % len(self._rows)
        self._rows[at] = inputs
        self._programs[at] = program
        self._put += 1

    def rows(self) -> tuple[Floats, list[str]]:
        """Copies of the rows and of their programmes, oldest first."""
        order = (np.arange(len(self)) + (self._put if self._put > len(self._rows) else 0)) % len(self._rows)
        return self._rows[order], [self._programs[at] for at in order.tolist()]

    def export(self) -> Arrays:
        """The state as arrays; see `Learned.export`."""
        rows, programs = self.rows()
        return {"rows": rows, "programs": np.frombuffer("\n".join(programs).encode(), dtype=np.uint8)}

    def restore(self, arrays: Arrays) -> None:
        """Take over an exported state. ValueError if it does not fit."""
        programs = arrays["programs"].tobytes().decode().split("\n")
        self._put = 0
        for row, program in zip(arrays["rows"], programs[: len(arrays["rows"])], strict=True):
            self.put(row, program)


def held_out(good: Ring, fraud: Ring) -> HeldOut:
    """Both rings as one value, the good rows first."""
    (good_rows, good_programs), (bad_rows, bad_programs) = good.rows(), fraud.rows()
    labels = np.repeat([False, True], [len(good_rows), len(bad_rows)])
    return HeldOut(np.concatenate((good_rows, bad_rows)), labels, [*good_programs, *bad_programs])
