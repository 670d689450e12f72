"""The metrics of detection quality, against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quality_data import DAY_SECONDS, Transactions
from bench.quality_metrics import auc, average_precision, card_precision, points_saved, published_rows

RANKED = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30).filter(
    lambda rows: 0 < sum(fraud for fraud, _ in rows) < len(rows)
)


@given(rows=RANKED)
def test_auc_is_the_chance_that_a_fraud_is_above(rows: list[tuple[bool, int]]) -> None:
    """Compared pair by pair, ties half."""
    pairs = [(high > low) + (high == low) / 2 for fraud, high in rows if fraud for honest, low in rows if not honest]
    fraud, scores = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    assert sum(pairs) / len(pairs) == pytest.approx(auc(fraud, scores))


@given(rows=RANKED)
def test_average_precision_takes_rows_of_one_score_together(rows: list[tuple[bool, int]]) -> None:
    """The sum over thresholds of precision times the recall gained."""
    total, expected, before = sum(fraud for fraud, _ in rows), 0.0, 0
    for threshold in sorted({score for _, score in rows}, reverse=True):
        above = [fraud for fraud, score in rows if score >= threshold]
        expected += (sum(above) - before) / total * sum(above) / len(above)
        before = sum(above)
    fraud, scores = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    assert expected == pytest.approx(average_precision(fraud, scores))


def stream_of(rows: list[tuple[int, int, int]]) -> Transactions:
    """Rows of day, account and fraud."""
    day, account, fraud = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Transactions(day * DAY_SECONDS, account, account * 0, np.ones(len(rows)), fraud)


def test_card_precision_counts_cards_once_and_leaves_out_those_found() -> None:
    """Day 0 finds card 1 of the best two; on day 1 its rows do not count, and of two rows of a card the higher does."""
    rows = [(0, 1, 1), (0, 2, 0), (0, 3, 1), (1, 1, 1), (1, 2, 1), (1, 2, 0), (1, 3, 0)]
    scores = np.array([0.9, 0.8, 0.1, 0.9, 0.2, 0.7, 0.6])
    assert card_precision(stream_of(rows), np.arange(7), scores, cards=2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert card_precision(stream_of(rows), np.arange(7), scores, cards=1) == pytest.approx((1 + 1) / 2)


def test_the_published_test_week_leaves_out_known_cards() -> None:
    """Known are cards with a fraud in training, or up to 8 days before the day tested."""
    rows = [(0, 1, 1), (7, 2, 1), (10, 3, 1), (13, 4, 1)]
    rows += [(day, account, 0) for day in range(14, 22) for account in range(1, 6)]
    stream = stream_of(rows)
    kept = {(int(stream.day[row]), int(stream.account[row])) for row in published_rows(stream, 0)}
    # A fraud of day d is known on day d + 8 - 1 + 1: card 2 (day 7) from day 15 on, card 3 from 18, card 4 from 21.
    known_from = {2: 15, 3: 18, 4: 21, 5: 99}
    assert kept == {(day, account) for account, start in known_from.items() for day in range(14, 21) if day < start}


def test_points_saved_is_a_share_of_fraud_points() -> None:
    """Holding the two highest of four rows holds the one fraud among them."""
    fraud, points = np.array([True, False, True, False]), np.array([30.0, 99.0, 10.0, 1.0])
    assert points_saved(fraud, points, np.array([4.0, 3.0, 2.0, 1.0]), 0.5) == pytest.approx(0.75)
