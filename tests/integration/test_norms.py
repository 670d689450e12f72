"""Accounts' own norms: folded by the trainer once, read by workers into the features that are stored."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alerts.metrics import Metrics
from detectors.features import pack
from detectors.layout import NORM
from detectors.models import INPUT_NAMES
from detectors.models_learner import LabelRow
from detectors.models_norm import KNOWN_ROWS
from streams import norms
from streams.trainer import Trainer
from tests.integration.label_log import KEY, LAYOUT, PARAMS, START, drain, expect, open_labels
from tests.integration.pipeline_desk import LIVE, Desk, event

_STATES = text("SELECT program, account, seq, encode(sha256(state), 'hex') FROM account_norm ORDER BY 1, 2")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A database with labels."""
    with open_labels(database) as made:
        yield made


def row(seq: int, account: str, points: float, label: int = 0) -> LabelRow:
    """A label of an inflow that is all its account moved that day."""
    inputs = np.zeros(len(INPUT_NAMES))
    inputs[INPUT_NAMES.index("event.points")] = points
    return LabelRow(seq, label, "live", account, None, inputs)


def states(engine: Engine) -> list[tuple[object, ...]]:
    """All norms, their numbers as digests."""
    with engine.connect() as conn:
        return [tuple(each) for each in conn.execute(_STATES)]


def test_labels_are_folded_once_however_they_come(engine: Engine) -> None:
    """In one piece, in pieces, or with pieces repeated as after a restart: the norms are the same."""
    log = [row(seq, f"a{seq % 3}", 10.0 * seq) for seq in range(1, 41)]
    with engine.begin() as conn:
        norms.follow(conn, log)
    whole = states(engine)
    assert [each[2] for each in whole] == [39, 40, 38]
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM account_norm"))
        for first, last in ((0, 7), (3, 12), (0, 30), (12, 40), (0, 40)):
            norms.follow(conn, log[first:last])
    assert states(engine) == whole


def test_fraud_and_rows_without_inputs_are_no_norm(engine: Engine) -> None:
    """What turned out to be fraud, or cannot be read, leaves no trace."""
    with engine.begin() as conn:
        norms.follow(conn, [row(1, "a", 5.0, label=1), LabelRow(2, 0, "live", "b", None, None)])
    assert states(engine) == []


def test_the_trainer_makes_norms_of_the_log(engine: Engine) -> None:
    """Each account of the log has its norm; a restarted trainer adds nothing."""
    with engine.begin() as conn:
        for number in range(1, 31):
            expect(conn, number, START + timedelta(seconds=number), account=f"a{number % 2}")
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    before = states(engine)
    assert [each[:3] for each in before] == [("live", "a0", 30), ("live", "a1", 29)]
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    assert states(engine) == before


def test_features_get_the_norm_of_their_own_account(engine: Engine) -> None:
    """By account, in any order and more than once; unknown for an account without a norm."""
    with engine.begin() as conn:
        norms.follow(conn, [row(seq, "a", 100.0) for seq in range(1, KNOWN_ROWS + 1)])
        norms.follow(conn, [row(9, "few", 100.0)])
        features = np.full((4, LAYOUT.width), np.nan)
        for name, value in (("event.points", 300.0), ("velocity.account.sum_24h", 0.0), ("event.outflow", 0.0)):
            features[:, LAYOUT.index[name]] = value
        norms.fill(conn, features, LAYOUT, [("live", "a"), ("live", "few"), ("other", "a"), ("live", "a")])
    times = features[:, LAYOUT.index[NORM[0]]]
    assert times[[0, 3]].tolist() == [pytest.approx(3.0), pytest.approx(3.0)]
    assert np.isnan(times[[1, 2]]).all()
    assert len(pack(features[0])) == 8 * LAYOUT.width


def test_a_worker_stores_the_comparison_with_the_decision(desk: Desk) -> None:
    """The features of a stored decision hold how its event stood beside its account's norm."""
    layout = desk.stages.catalog.judge.policy.layout
    with desk.engine.begin() as conn:
        norms.follow(conn, [replace(row(seq, "rich", 100.0), program=LIVE) for seq in range(1, 9)])
    desk.send(event(id="big", account="rich", points=320))
    with desk.engine.connect() as conn:
        stored = conn.execute(text("SELECT features FROM decision WHERE event_id = 'big'")).scalar_one()
    value = np.frombuffer(bytes(stored), dtype="<f8")[layout.index["account.times_usual_day"]]
    assert value == pytest.approx(3.2)


def test_an_alert_compares_with_the_norm(desk: Desk) -> None:
    """Whoever is told of a hold reads how the event stands beside its account's norm, in both languages."""
    with desk.engine.begin() as conn:
        norms.follow(conn, [replace(row(seq, "rich", 1_000.0), program=LIVE) for seq in range(1, 9)])
    desk.send(event(id="big", account="rich", points=5_000), event(id="new", account="poor", points=5_000))
    first, second = [said for said in desk.said("points.alerts") if said["alert"] == "hold_opened"]
    assert first["why_en"][-1] == "5.0 × this account's usual day, 5.0 × its usual points."
    assert first["why_zh"][-1] == "是该账户平日的 5.0 倍、平时单笔的 5.0 倍。"
    assert "large" in second["why_en"][-1]
