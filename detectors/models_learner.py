"""Learning: a fold over the label log. state(n) = learn(row 1), .., learn(row n), the same on every machine.

River's HalfSpaceTrees and LODA learn from events that turned out good, never from labelled fraud; each row is scored
before it is learned, and those scores calibrate. One account or device may shape only a small part of what is learned.
"""

import hashlib
import struct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from river.anomaly import LODA, HalfSpaceTrees

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, MODELS, SHARES, Calibration, quantiles, squash
from detectors.models_hst import compile_hst
from detectors.models_loda import compile_loda
from detectors.models_snapshot import Snapshot

EVERY_PROGRAM = ""


@dataclass(frozen=True, kw_only=True)
class LearnerParams:
    """What shapes the fold; a change makes another state, so it goes into the digest.

    A snapshot is ready after `grace_rows`. Of the last `influence_rows` rows learned, one account or one device may
    have supplied `influence_max`; what comes beyond is skipped. Calibration keeps the last `calibration_rows` scores
    of each of the first `programs_max` programmes.
    """

    seed: int = 1
    trees: int = 25
    height: int = 8
    window_rows: int = 500
    cuts: int = 60
    bins: int = 12
    grace_rows: int = 1_000
    influence_rows: int = 5_000
    influence_max: int = 25
    calibration_rows: int = 5_000
    programs_max: int = 64


@dataclass(frozen=True)
class LabelRow:
    """One row of the label log with what its decision stored. `label` 1 is fraud.

    `inputs` float64[len(INPUT_NAMES)] are the features the models read, as scored; None where the decision has none:
    such a row teaches nothing.
    """

    seq: int
    label: int
    program: str
    account: str
    device: bytes | None
    inputs: Floats | None


class OutOfOrder(ValueError):
    """Rows must be learned in the order of the log, without a gap."""


class Learner:
    """The state of the fold. Not thread-safe; learns one row at a time, in order."""

    def __init__(self, params: LearnerParams) -> None:
        self.params = params
        self.seq = 0
        self.learned = 0
        # Any: River's methods have no types.
        self._hst: Any = HalfSpaceTrees(
            n_trees=params.trees, height=params.height, window_size=params.window_rows, seed=params.seed
        )
        self._loda: Any = LODA(n_bins=params.bins, n_random_cuts=params.cuts, seed=params.seed)
        self._scores: dict[str, deque[tuple[float, float]]] = {EVERY_PROGRAM: deque(maxlen=params.calibration_rows)}
        self._recent: deque[tuple[str, bytes | None]] = deque()
        self._supplied: Counter[str | bytes] = Counter()

    def learn(self, row: LabelRow) -> bool:
        """Take the next row; True if the models learned from it. Raises OutOfOrder."""
        if row.seq != self.seq + 1:
            raise OutOfOrder(f"row {row.seq} after row {self.seq}")
        self.seq = row.seq
        if row.label != 0 or row.inputs is None or not self._admit(f"{row.program}\0{row.account}", row.device):
            return False
        inputs = dict(zip(INPUT_NAMES, squash(row.inputs[None, :])[0].tolist(), strict=True))
        self._calibrate(row.program, (float(self._hst.score_one(inputs)), float(self._loda.score_one(inputs))))
        self._hst.learn_one(inputs)
        self._loda.learn_one(inputs)
        self.learned += 1
        return True

    def snapshot(self, version: int) -> Snapshot:
        """The models as they stand, as arrays."""
        return Snapshot(
            version=version,
            last_seq=self.seq,
            learned=self.learned,
            ready=self.learned >= self.params.grace_rows,
            hst=compile_hst(self._hst, INPUT_NAMES),
            loda=compile_loda(self._loda, INPUT_NAMES),
            calibration=self._calibration(),
        )

    def digest(self) -> str:
        """sha256 of the whole state; equal for equal logs and parameters, whenever and wherever they were folded."""
        digest = hashlib.sha256(repr((self.params, self.seq, self.learned)).encode())
        for chunk in self._state():
            digest.update(struct.pack("<q", len(chunk)))
            digest.update(chunk)
        return digest.hexdigest()

    def _admit(self, account: str, device: bytes | None) -> bool:
        """Whether account and device are still below their share of what was learned lately; counts the row if so."""
        most = self.params.influence_max
        if self._supplied[account] >= most or (device is not None and self._supplied[device] >= most):
            return False
        self._recent.append((account, device))
        self._supplied[account] += 1
        if device is not None:
            self._supplied[device] += 1
        if len(self._recent) > self.params.influence_rows:
            for entity in self._recent.popleft():
                if entity is not None:
                    self._supplied[entity] -= 1
                    if not self._supplied[entity]:
                        del self._supplied[entity]
        return True

    def _calibrate(self, program: str, scores: tuple[float, float]) -> None:
        # HST says 0 for all of its first window: such scores would make every later one look rare.
        if self.learned < self.params.window_rows:
            return
        self._scores[EVERY_PROGRAM].append(scores)
        if program not in self._scores and len(self._scores) <= self.params.programs_max:
            self._scores[program] = deque(maxlen=self.params.calibration_rows)
        if program in self._scores:
            self._scores[program].append(scores)

    def _calibration(self) -> Calibration:
        """Tables of the programmes that have scores enough to tell a thousandth, after the one for all."""
        enough = [name for name, scores in self._scores.items() if name == EVERY_PROGRAM or len(scores) >= SHARES]
        if not self._scores[EVERY_PROGRAM]:
            return Calibration((), np.zeros((0, len(MODELS), SHARES)))
        tables = [[quantiles(column) for column in np.array(self._scores[name]).T] for name in enough]
        return Calibration(tuple(enough), np.array(tables))

    def _state(self) -> Iterator[bytes]:
        yield repr((self._hst.counter, self._hst._first_window)).encode()  # noqa: SLF001  # as below
        for nodes in self._hst._tree_nodes:  # noqa: SLF001  # the whole state has no public name in River
            yield np.array([(node.l_mass, node.r_mass) for node in nodes], dtype=np.int64).tobytes()
            yield repr([(node.feature, node.threshold) for node in nodes if hasattr(node, "feature")]).encode()
        yield repr(self._loda.projections_).encode()
        for histogram in self._loda.histograms_:
            yield _bins(histogram).tobytes()
        for program, scores in self._scores.items():
            yield program.encode()
            yield np.array(scores, dtype=np.float64).tobytes()
        yield repr(list(self._recent)).encode()


def _bins(histogram: Any) -> Floats:
    return np.array([(each.left, each.right, each.count) for each in histogram.data], dtype=np.float64)
