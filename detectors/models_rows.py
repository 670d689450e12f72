"""Labelled rows on their way: those that wait for their block, and those kept to compare snapshots on.

One row in `every` of each class goes here instead of into the models. Champion and challenger are both strangers to
them, at any time, so a comparison needs no waiting for new labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models import WIDE, Arrays

Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """Rows kept for comparing: `inputs` float64[n, WIDE] as `squash` gives them, `fraud` bool[n], `programs` of n."""

    inputs: Floats
    fraud: Truths
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


class Block:
    """Rows that are learned together, in order."""

    def __init__(self) -> None:
        self._inputs: list[Floats] = []
        self._programs: list[str] = []
        self._marks: list[tuple[int, bool]] = []

    def __len__(self) -> int:
        return len(self._marks)

    def put(self, inputs: Floats, program: str, seq: int, *, fraud: bool) -> None:
        """Add a row float64[WIDE]."""
        self._inputs.append(inputs)
        self._programs.append(program)
        self._marks.append((seq, fraud))

    def take(self) -> tuple[Floats, Truths, list[str], list[int]]:
        """Inputs float64[n, WIDE], fraud bool[n], programmes and numbers of the rows; the block is empty then."""
        inputs = np.array(self._inputs).reshape(-1, WIDE)
        fraud = np.array([fraud for _, fraud in self._marks], dtype=np.bool_)
        taken = inputs, fraud, self._programs, [seq for seq, _ in self._marks]
        self._inputs, self._programs, self._marks = [], [], []
        return taken

    def export(self) -> Arrays:
        """The state as arrays; see `Learned.export`."""
        return {
            "inputs": np.array(self._inputs).reshape(-1, WIDE),
            "marks": np.array(self._marks, dtype=np.int64).reshape(-1, 2),
            "programs": np.frombuffer("\n".join(self._programs).encode(), dtype=np.uint8),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over an exported state. ValueError if it does not fit."""
        self._inputs = list(arrays["inputs"])
        self._marks = [(seq, bool(fraud)) for seq, fraud in arrays["marks"].tolist()]
        self._programs = arrays["programs"].tobytes().decode().split("\n")[: len(self._marks)]


def held_out(good: Ring, fraud: Ring) -> HeldOut:
    """Both rings as one value, the good rows first."""
    (good_rows, good_programs), (bad_rows, bad_programs) = good.rows(), fraud.rows()
    labels = np.repeat([False, True], [len(good_rows), len(bad_rows)])
    return HeldOut(np.concatenate((good_rows, bad_rows)), labels, [*good_programs, *bad_programs])
