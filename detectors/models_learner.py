"""Learning: a fold over the label log. state(n) = learn(row 1), .., learn(row n), the same on every machine.

The unsupervised models learn from events that turned out good, never from labelled fraud; the supervised one from both.
Each row is scored before it is learned, and those scores calibrate. One party may shape only a small part of what is
learned (models_influence.py). One row in ten is not learned at all, but kept to compare snapshots on (models_rows.py).
"""

import hashlib
import math
import struct
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from detectors.layout import Floats
from detectors.models import CHANCE, MODELS, SHARES, WIDE, Arrays, squash
from detectors.models_calibration import Calibration, isotonic, quantiles
from detectors.models_drift import SERIES, PageHinkley, PageHinkleyShape, Recent, profile
from detectors.models_influence import Influence, InfluenceShape
from detectors.models_learned import ModelParams, build
from detectors.models_registry import nested, part
from detectors.models_rows import Block, HeldOut, Ring, held_out
from detectors.models_snapshot import Snapshot

EVERY_PROGRAM = ""
DRIFTED_KEPT = 100
_CHANCE = MODELS.index(CHANCE)


@dataclass(frozen=True, kw_only=True)
class LearnerParams:
    """What shapes the fold; a change makes another state, so it goes into the digest.

    Rows are learned in blocks of `block_rows`: scored with what was known before the block, then learned. A snapshot is
    ready after `grace_rows` learned. Calibration keeps the last `calibration_rows` scores of each of the first
    `programs_max` programmes, and the last `fraud_rows` of fraud; a chance is given from `frauds_min` of them on. Of
    the good rows one in `hold_out_every` is kept for comparisons, of frauds one in `hold_out_fraud_every`: the last
    `hold_out_rows` of each. The rate of fraud is that of about the last `rate_rows` labels.
    """

    models: ModelParams = field(default_factory=ModelParams)
    influence: InfluenceShape = field(default_factory=InfluenceShape)
    fraud_influence: InfluenceShape = field(default_factory=lambda: InfluenceShape(rows=1_000, most=10))
    drift: PageHinkleyShape = field(default_factory=PageHinkleyShape)
    block_rows: int = 200
    grace_rows: int = 1_000
    calibration_rows: int = 5_000
    fraud_rows: int = 1_000
    frauds_min: int = 30
    programs_max: int = 64
    hold_out_every: int = 10
    hold_out_fraud_every: int = 5
    hold_out_rows: int = 1_500
    rate_rows: int = 50_000
    drift_rows: int = 2_000


@dataclass(frozen=True)
class LabelRow:
    """One row of the label log with what its decision stored. `label` 1 is fraud.

    `inputs` float64[WIDE] are the features that the models read, as scored; None where the decision has none: such a
    row teaches nothing. `weight` is how many events of its kind the row stands for, where only a share of them is
    logged: it counts for the rate of fraud.
    """

    seq: int
    label: int
    program: str
    account: str
    device: bytes | None
    inputs: Floats | None
    ip: bytes | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Drifted:
    """A series of `models_drift.SERIES` whose mean had moved at row `seq`."""

    seq: int
    series: str


class OutOfOrder(ValueError):
    """Rows must be learned in the order of the log, without a gap."""


class Learner:
    """The state of the fold. Not thread-safe; takes one row at a time, in order, and learns them in blocks."""

    def __init__(self, params: LearnerParams) -> None:
        self.params = params
        self.seq = 0
        self.learned = 0
        self.drifted: deque[Drifted] = deque(maxlen=DRIFTED_KEPT)
        """What drifted, oldest first; whoever tells of it empties it. No part of the state."""
        self.models = build(params.models)
        """The models as they stand after the last block."""
        self._influence = (Influence(params.influence), Influence(params.fraud_influence))
        self._kept = (Ring(params.hold_out_rows), Ring(params.hold_out_rows))
        self._block = Block()
        self._scores: dict[str, deque[Floats]] = {EVERY_PROGRAM: deque(maxlen=params.calibration_rows)}
        self._fraud_scores: deque[float] = deque(maxlen=params.fraud_rows)
        self._seen = [0, 0]
        self._rate = [0.0, 0.0]
        self._fraud_rate = 0.0
        self._hinkley = PageHinkley(params.drift, WIDE)
        self._recent = Recent(params.drift_rows)
        self._refresh()

    def learn(self, row: LabelRow) -> bool:
        """Take the next row; True if the models learn from it, at the latest with its block. Raises OutOfOrder."""
        if row.seq != self.seq + 1:
            raise OutOfOrder(f"row {row.seq} after row {self.seq}")
        self.seq = row.seq
        if row.inputs is None:
            return False
        fraud = row.label != 0
        # The rate is that of all labels, whoever they come from: bounds and hold-outs would shift it.
        self._rate = [each * (1.0 - 1.0 / self.params.rate_rows) for each in self._rate]
        self._rate[fraud] += row.weight
        inputs = squash(row.inputs[None, :])[0]
        if not self._influence[fraud].admit(_party(row)):
            return False
        self._seen[fraud] += 1
        every = self.params.hold_out_fraud_every if fraud else self.params.hold_out_every
        if self._seen[fraud] % every == 0:
            self._kept[fraud].put(inputs, row.program)
            return False
        self._block.put(inputs, row.program, row.seq, fraud=fraud)
        if len(self._block) == self.params.block_rows:
            self._learn_block()
        return True

    def snapshot(self, version: int) -> Snapshot:
        """The models as they stand, as arrays."""
        return Snapshot(
            version=version,
            last_seq=self.seq,
            learned=self.learned,
            ready=self.learned >= self.params.grace_rows,
            scorers=self._scorers,
            calibration=self._calibration,
            profile=profile(self._recent.values()),
        )

    def held_out(self) -> HeldOut:
        """The rows that no model ever learned from."""
        return held_out(*self._kept)

    def recent(self) -> Floats:
        """The values of all series of drift in the latest rows, float64[n, len(SERIES)]."""
        return self._recent.values()

    def export(self) -> Arrays:
        """The whole state as arrays: what a checkpoint keeps and the digest is of."""
        programs = list(self._scores)
        scores = [np.array(each).reshape(-1, len(MODELS)) for each in self._scores.values()]
        return nested(
            {
                **{name: model.export() for name, model in self.models.items()},
                "good": self._influence[0].export(),
                "bad": self._influence[1].export(),
                "kept_good": self._kept[0].export(),
                "kept_bad": self._kept[1].export(),
                "hinkley": self._hinkley.export(),
                "recent": self._recent.export(),
                "scores": {
                    "programs": np.frombuffer("\n".join(programs).encode(), dtype=np.uint8),
                    "lengths": np.array([len(each) for each in scores], dtype=np.int64),
                    "values": np.concatenate(scores),
                    "fraud": np.array(self._fraud_scores, dtype=np.float64),
                },
                "fold": {
                    "counts": np.array([self.seq, self.learned, *self._seen], dtype=np.int64),
                    "rate": np.array([*self._rate, self._fraud_rate]),
                },
                "block": self._block.export(),
            }
        )

    def restore(self, arrays: Arrays) -> None:
        """Go on from an exported state of the same parameters. KeyError or ValueError if it is none."""
        for name, model in self.models.items():
            model.restore(part(arrays, name))
        for number, kind in enumerate(("good", "bad")):
            self._influence[number].restore(part(arrays, kind))
            self._kept[number].restore(part(arrays, f"kept_{kind}"))
        self._hinkley.restore(part(arrays, "hinkley"))
        self._recent.restore(part(arrays, "recent"))
        self._block.restore(part(arrays, "block"))
        fold, scores = part(arrays, "fold"), part(arrays, "scores")
        self.seq, self.learned, *self._seen = fold["counts"].tolist()
        *self._rate, self._fraud_rate = fold["rate"].tolist()
        ends = np.cumsum(scores["lengths"])[:-1]
        names = scores["programs"].tobytes().decode().split("\n")
        self._scores = {
            program: deque(list(values), maxlen=self.params.calibration_rows)
            for program, values in zip(names, np.split(scores["values"], ends), strict=True)
        }
        self._fraud_scores = deque(scores["fraud"].tolist(), maxlen=self.params.fraud_rows)
        self._refresh()

    def digest(self) -> str:
        """sha256 of the whole state; equal for equal logs and parameters, whenever and wherever they were folded."""
        digest = hashlib.sha256(repr(self.params).encode())
        for name, array in sorted(self.export().items()):
            data = array.tobytes()
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(struct.pack("<q", len(data)))
            digest.update(data)
        return digest.hexdigest()

    def _learn_block(self) -> None:
        """Score the block with what was known before it, then learn it; all that is derived is worked out anew."""
        inputs, fraud, programs, seqs = self._block.take()
        scores = np.stack([scorer.score(inputs) for scorer in self._scorers.values()], axis=1)
        scores[:, ~self._speaks] = np.nan
        numbers = self._calibration.numbers(scores, programs)
        for row, is_fraud in enumerate(fraud.tolist()):
            if is_fraud:
                self._note_fraud(float(scores[row, _CHANCE]))
            else:
                self._note(programs[row], scores[row])
                self._watch(np.concatenate((inputs[row], numbers[row])), seqs[row])
        for model in self.models.values():
            model.learn(inputs, fraud)
        self.learned += len(inputs)
        self._fraud_rate = self._rate[1] / (self._rate[0] + self._rate[1])
        self._refresh()

    def _refresh(self) -> None:
        """What follows from the state, as it stands between two blocks."""
        self._scorers = {name: model.compile() for name, model in self.models.items()}
        self._speaks = np.array([model.ready for model in self.models.values()])
        self._calibration = self._calibrated()

    def _note(self, program: str, scores: Floats) -> None:
        """Keep the scores of a good row for calibration."""
        self._scores[EVERY_PROGRAM].append(scores)
        if program not in self._scores and len(self._scores) <= self.params.programs_max:
            self._scores[program] = deque(maxlen=self.params.calibration_rows)
        if program in self._scores and program != EVERY_PROGRAM:
            self._scores[program].append(scores)

    def _note_fraud(self, score: float) -> None:
        if not math.isnan(score):
            self._fraud_scores.append(score)

    def _watch(self, values: Floats, seq: int) -> None:
        """Whether a good row, one value a series, tells of drift."""
        self._recent.put(values)
        # The models' numbers move with every block by themselves; what they are shown does not.
        moved = np.flatnonzero(self._hinkley.update(values[:WIDE])).tolist()
        self.drifted.extend(Drifted(seq, SERIES[each]) for each in moved)

    def _calibrated(self) -> Calibration:
        """Tables of the programmes that have scores enough to tell a thousandth, after the one for all; the chance."""
        tables = {}
        for name, scores in self._scores.items():
            values = np.array(scores).reshape(-1, len(MODELS))
            enough = len(values) >= (SHARES if name != EVERY_PROGRAM else 1)
            if enough and np.isfinite(values).any():
                tables[name] = np.stack([quantiles(column) for column in values.T])
        edges = chances = np.zeros(0)
        good = np.array(self._scores[EVERY_PROGRAM]).reshape(-1, len(MODELS))[:, _CHANCE]
        good = good[np.isfinite(good)]
        if len(good) and len(self._fraud_scores) >= self.params.frauds_min:
            edges, chances = isotonic(good, np.array(self._fraud_scores), self._fraud_rate)
        stacked = np.stack(list(tables.values())) if tables else np.zeros((0, len(MODELS), SHARES))
        return Calibration(tuple(tables), stacked, edges, chances)


def _party(row: LabelRow) -> tuple[str | None, ...]:
    """Who stands behind a row; a kind's keys begin with its letter, so that kinds never meet."""
    device, ip = (None if each is None else each.hex() for each in (row.device, row.ip))
    return (
        f"a{row.program}\0{row.account}",
        None if device is None else f"d{device}",
        None if ip is None else f"i{ip}",
    )
