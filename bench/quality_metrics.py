"""How well scores rank fraud: AUC ROC, average precision, card precision, points saved at a fixed hold rate."""

import numpy as np

from bench.quality_data import Integers, Transactions, Truths
from detectors.layout import Floats

CARDS = 100
"""Cards that an investigator can check in a day, by the Handbook."""


def auc(fraud: Truths, scores: Floats) -> float:
    """The chance that a fraud scores above an honest row, ties counting half; NaN unless there are both."""
    positives = int(fraud.sum())
    negatives = len(fraud) - positives
    if not positives or not negatives:
        return float("nan")
    _, code, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    above = float(rank[code[fraud]].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def average_precision(fraud: Truths, scores: Floats) -> float:
    """Precision averaged over the recall it is reached at; rows of one score come together, as in scikit-learn."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    caught = np.cumsum(fraud[order])[ends]
    gained = np.diff(caught, prepend=0)
    return float((gained * caught / (ends + 1)).sum() / max(1, int(fraud.sum())))


def published_rows(stream: Transactions, train_day: int) -> Integers:
    """The Handbook's test set: 7 days that begin 14 after `train_day`, without cards known to be compromised.

    A card is known if it had a fraud in the 7 days of training, or on a later day up to 8 days before the one tested.
    """
    day, account, fraud = stream.day, stream.account, stream.fraud == 1
    known = set(account[fraud & (day >= train_day) & (day < train_day + 7)].tolist())
    parts = []
    for step in range(7):
        known.update(account[fraud & (day == train_day + 6 + step)].tolist())
        rows = np.flatnonzero(day == train_day + 14 + step)
        parts.append(rows[~np.isin(account[rows], list(known))])
    return np.concatenate(parts)


def card_precision(stream: Transactions, rows: Integers, scores: Floats, cards: int = CARDS) -> float:
    """The mean over days of the share of that day's highest-scored `cards` that are compromised that day.

    A card found on an earlier day is left out, as in the Handbook. `scores` float64[len(rows)].
    """
    found = np.zeros(int(stream.account.max()) + 1, dtype=np.bool_)
    shares = []
    for day in np.unique(stream.day[rows]).tolist():
        today = np.flatnonzero((stream.day[rows] == day) & ~found[stream.account[rows]])
        names, code = np.unique(stream.account[rows[today]], return_inverse=True)
        highest, compromised = np.full(len(names), -np.inf), np.zeros(len(names), dtype=np.bool_)
        np.maximum.at(highest, code, scores[today])
        np.logical_or.at(compromised, code, stream.fraud[rows[today]] == 1)
        top = np.argsort(-highest, kind="stable")[:cards]
        shares.append(float(compromised[top].sum()) / cards)
        found[names[top[compromised[top]]]] = True
    return float(np.mean(shares))


def points_saved(fraud: Truths, points: Floats, scores: Floats, rate: float) -> float:
    """Of all points of fraud the share that is held when the highest-scored `rate` of rows is held."""
    held = np.argsort(-scores, kind="stable")[: round(rate * len(scores))]
    return float((points * fraud)[held].sum() / max(1e-9, float((points * fraud).sum())))
