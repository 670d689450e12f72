"""Detection quality on card transactions: the Handbook's published test week, and S-FFSD as a second stream.

Everything is online: a row is scored by what was learned from the rows before it, labels come DELAY_DAYS late.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.quality_data import DAY_SECONDS, Integers, Transactions, Truths, handbook, sffsd
from bench.quality_metrics import auc, average_precision, card_precision, points_saved, published_rows
from bench.quality_models import with_labels, without_labels
from bench.quality_report import Bar, Figure, Table, row_of
from bench.quality_windows import TERMINAL_RISK, WITHOUT_LABELS, Features, features
from detectors.layout import Floats
from detectors.models_forest import ForestParams
from detectors.models_tails import Side

DELAY_DAYS = 7
TRAIN_DAY = 115
"""2018-07-25 in days after 2018-04-01: the first day of training in the published protocol."""
LEARNED_ONLY_DAYS = 60
HOLD_RATE = 0.01
HIGH: tuple[Side, ...] = ("high",)
"""Of a card transaction only high values are suspicious: a small amount is as rare, and no sign of fraud."""
PUBLISHED = (
    ("Handbook: logistic regression", ".871", ".606", ".291"),
    ("Handbook: random forest", ".867", ".658", ".287"),
    ("Handbook: XGBoost", ".862", ".639", ".273"),
    ("River logistic regression online, labels 8 days late", ".857", ".487", ".264"),
    ("River LODA online, with terminal risk", ".826", ".344", ".257"),
    ("River HalfSpaceTrees 25x8 online, with terminal risk", ".796", ".073", ".124"),
    ("Handbook: autoencoder, with terminal risk (week 07-25)", ".836", ".180", ".217"),
    ("Handbook: isolation forest, with terminal risk (week 07-25)", ".808", ".164", ".190"),
)
METRICS = ("AUC ROC", "average precision", "card precision@100", "points saved at 1 % held")
FOREST = "label forest, labels 7 days late"
RISK = "{}, with delayed terminal risk"
BARE = "{}, no label at all"
BARS = {
    FOREST: Bar((0.87, 0.60, 0.285)),
    RISK.format("tails"): Bar((0.84, 0.34, 0.257)),
    BARE.format("tails"): Bar((0.60, 0.19)),
}


@dataclass(frozen=True)
class Week:
    """The rows that are measured, and what they really are."""

    stream: Transactions
    rows: Integers

    def figures(self, scores: Floats) -> tuple[float, ...]:
        """METRICS of scores float64[len(rows)]."""
        fraud = self.stream.fraud[self.rows] == 1
        return (
            auc(fraud, scores),
            average_precision(fraud, scores),
            card_precision(self.stream, self.rows, scores),
            points_saved(fraud, self.stream.points[self.rows], scores, HOLD_RATE),
        )


def measure_handbook(folder: Path | None, seeds: int) -> tuple[list[Table], list[Figure]]:
    """The published test week: tables beside the published figures, and the curves of the first seed."""
    stream = handbook(folder)
    week = Week(stream, published_rows(stream, TRAIN_DAY))
    scores = _scores(stream, features(stream, DELAY_DAYS * DAY_SECONDS), week.rows, seeds)
    ours = [row_of(name, [week.figures(each) for each in found], BARS.get(name)) for name, found in scores.items()]
    published = [(name, *figures, "–", "") for name, *figures in PUBLISHED]
    fraud = stream.fraud[week.rows] == 1
    about = (
        f"Test week 2018-08-08 to 08-14 by the published protocol: {len(week.rows):,} rows, {int(fraud.sum())} fraud; "
        f"a perfect ranking reaches a card precision of {card_precision(stream, week.rows, fraud.astype(float)):.3f}. "
        "Published models are trained in batch on one week; ours learn online from the first day, every row scored "
        f"before it is learned, every label {DELAY_DAYS} days late."
    )
    table = Table("Card transactions of the Fraud Detection Handbook", about, METRICS, [*ours, *published])
    curves = {name: found[0] for name, found in scores.items() if name in BARS}
    held = Figure(
        "handbook", "Points of fraud held, by the share of events held", fraud, stream.points[week.rows], curves
    )
    return [table], [held]


def _scores(stream: Transactions, made: Features, rows: Integers, seeds: int) -> dict[str, list[Floats]]:
    """Scores of the wanted rows by each model, a list over seeds."""
    found: dict[str, list[Floats]] = {}
    first, last = int(rows.min()), int(rows.max()) + 1
    known = np.searchsorted(stream.seconds, stream.seconds - DELAY_DAYS * DAY_SECONDS, "right")
    settled = int(np.searchsorted(stream.day, LEARNED_ONLY_DAYS))
    for seed in range(1, seeds + 1):
        forest = with_labels(made.columns, stream.fraud, known, (first, last), ForestParams(seed=seed))
        found.setdefault(FOREST, []).append(forest[rows - first])
        for title, names in ((RISK, TERMINAL_RISK), (BARE, WITHOUT_LABELS)):
            inputs = made.of(names)[:last]
            for name, scores in without_labels(inputs, HIGH * len(names), seed, min(settled, first)).items():
                found.setdefault(title.format(name), []).append(scores[rows])
    return found


def measure_sffsd(folder: Path | None, seeds: int, rows_max: int | None = None) -> list[Table]:
    """The second half of S-FFSD's labelled rows; labels come 5,000 minutes late, which is 5,000 rows."""
    stream = sffsd(folder).first(rows_max)
    delay = 5_000 * 60
    made = features(stream, delay)
    half = len(stream) // 2
    rows = half + np.flatnonzero(stream.fraud[half:] >= 0)
    fraud, points = stream.fraud[rows] == 1, stream.points[rows]
    known = np.searchsorted(stream.seconds, stream.seconds - delay, "right")
    found: dict[str, list[Floats]] = {}
    for seed in range(1, seeds + 1):
        forest = with_labels(made.columns, stream.fraud, known, (half, len(stream)), ForestParams(seed=seed))
        found.setdefault("label forest, labels 5,000 rows late", []).append(forest[rows - half])
        for name, scores in without_labels(made.of(WITHOUT_LABELS), HIGH * len(WITHOUT_LABELS), seed).items():
            found.setdefault(BARE.format(name), []).append(scores[rows])
    metrics = ("AUC ROC", "average precision", "points saved at 1 % held")
    ours = [row_of(name, [_plain(fraud, points, each) for each in scores], None) for name, scores in found.items()]
    about = (
        f"{len(stream):,} rows in file order, of which the labelled ones of the second half count: {len(rows):,}, "
        f"{int(fraud.sum())} fraud ({fraud.mean():.1%}). Its Time is a row number, taken as minutes."
    )
    return [Table("S-FFSD", about, metrics, ours)]


def _plain(fraud: Truths, points: Floats, scores: Floats) -> tuple[float, ...]:
    return auc(fraud, scores), average_precision(fraud, scores), points_saved(fraud, points, scores, HOLD_RATE)
