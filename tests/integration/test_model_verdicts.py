"""Champion and challenger: the gate, what people decide of snapshots, and what is told of both."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alerts.metrics import MODEL_ALARMS, MODEL_DRIFT, MODEL_VERDICTS, Metrics
from cli.errors import FOUND, USAGE
from cli.main import main
from config.settings import load
from detectors.models_gate import GateParams
from detectors.models_snapshot import PURPOSE, Snapshot, sealed_arrays
from streams import model_store
from streams.keys import model_key
from streams.model_store import Standing, Verdict
from streams.publishing import PublishParams
from streams.trainer import Trainer, TrainerParams
from tests.integration.label_log import PARAMS, checkpoints, drain, fill, open_labels, verdicts, versions

Command = Callable[..., tuple[int, str]]
BY_TRAINER = "trainer"
STRICT = replace(PARAMS, publish=PublishParams(gate=GateParams(psi_max=0.0, rows_min=1)))
"""A gate that nothing but an identical snapshot passes."""
FREE = replace(PARAMS, publish=PublishParams(gate=GateParams(psi_max=9.0, canary_share=0.0)))
"""A gate that looks at rankings alone: the rows of these tests are noise."""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A database with labels."""
    with open_labels(database) as made:
        yield made


@pytest.fixture
def key(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The key of an installation of its own, which commands find."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    for name, value in {"DATABASE_URL": database, "DATA_DIR": str(tmp_path), "SECRET_FILE": str(secret)}.items():
        monkeypatch.setenv(f"POINTGUARD_{name}", value)
    monkeypatch.setenv("COLUMNS", "250")
    return model_key(load(data_dir=None).secret())


@pytest.fixture
def run(key: bytes, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the test's database; its exit code, and what it said on both outputs."""
    del key  # its environment is what commands read

    def command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return command


def train(engine: Engine, key: bytes, params: TrainerParams = FREE, metrics: Metrics | None = None) -> Metrics:
    """One life of a trainer: everything there is, and a snapshot at the end if there is news."""
    metrics = metrics or Metrics()
    trainer = Trainer(engine, key, metrics, params)
    drain(trainer)
    trainer.step(1_000.0)
    return metrics


def standing(engine: Engine) -> Standing:
    """Who is in use."""
    with engine.connect() as conn:
        return model_store.standing(conn)


def in_use(engine: Engine, key: bytes, current: int | None = None) -> Snapshot | None:
    """What a worker that has `current` takes."""
    with engine.connect() as conn:
        return model_store.load_champion(conn, key, current)


def told(engine: Engine) -> list[dict[str, Any]]:
    """The alerts in the outbox, in order."""
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT value FROM outbox WHERE topic = 'points.alerts' ORDER BY outbox_id")).scalars()
        return [json.loads(bytes(value)) for value in rows]


def audited(engine: Engine) -> list[dict[str, Any]]:
    """The acts on models in the audit chain, in order."""
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT entry FROM audit_link WHERE chain = 'act:model' ORDER BY seq")).scalars()
        return [json.loads(entry) for entry in rows]


def test_a_snapshot_that_passes_comes_into_use(engine: Engine, key: bytes) -> None:
    """The first needs only to be sound; the next is compared with it, and takes its place."""
    fill(engine, 1, 200)
    metrics = train(engine, key)
    fill(engine, 201, 400)
    train(engine, key, metrics=metrics)
    assert verdicts(engine)[0] == (1, "promoted", BY_TRAINER)
    assert {kind for _, kind, _ in verdicts(engine)} == {"promoted"}
    newest = versions(engine)[-1]
    assert standing(engine) == Standing(newest, 1, frozen=False, actor=BY_TRAINER, reason="all checks passed")
    taken = in_use(engine, key, 1)
    assert taken is not None
    assert taken.version == newest
    assert metrics.counter(MODEL_VERDICTS, "promoted")._value.get() == len(verdicts(engine))
    assert [act["act"] for act in audited(engine)][:2] == ["model.published", "model.promoted"]


def test_a_snapshot_that_fails_stays_a_challenger(engine: Engine, key: bytes) -> None:
    """The old one stays in use, the figures of the check that failed are kept, and it is told once."""
    fill(engine, 1, 200)
    train(engine, key)
    champion = standing(engine).champion
    fill(engine, 201, 500, scale=40.0)
    metrics = train(engine, key, STRICT)
    refused = [version for version, kind, _ in verdicts(engine) if kind == "refused"]
    assert len(refused) >= 2
    assert standing(engine).champion == champion
    assert in_use(engine, key, champion) is None
    with engine.connect() as conn:
        row = conn.execute(text("SELECT * FROM model_verdict WHERE kind = 'refused' ORDER BY verdict_id")).first()
    assert row is not None
    assert "PSI of shares" in row.reason
    assert {"name": "PSI of shares", "passed": False}.items() <= next(
        check for check in row.checks if check["name"] == "PSI of shares"
    ).items()
    assert [alert["error"] for alert in told(engine) if alert["alert"] == "model_refused"] == [row.reason]
    assert metrics.counter(MODEL_VERDICTS, "refused")._value.get() == len(refused)


def test_people_promote_and_roll_back(engine: Engine, key: bytes, run: Command) -> None:
    """After a roll-back nothing comes into use by itself, until somebody promotes; all with actor and reason."""
    for last in (200, 400):
        fill(engine, last - 199, last)
        train(engine, key)
    newest = versions(engine)[-1]
    before = [version for version, _, _ in verdicts(engine)][-2]
    code, said = run("model", "rollback", "--reason", "finds nothing", "--actor", "ann")
    assert (code, f"Snapshot {before} is back in use" in said) == (0, True)
    assert standing(engine) == Standing(before, before, frozen=True, actor="ann", reason="finds nothing")
    taken = in_use(engine, key, newest)
    assert taken is not None
    assert taken.version == before

    fill(engine, 401, 500)
    train(engine, key)
    frozen = versions(engine)[-1]
    assert verdicts(engine)[-1] == (frozen, "refused", BY_TRAINER)
    assert standing(engine).champion == before
    assert not [alert for alert in told(engine) if alert["alert"] == "model_refused"]

    assert run("model", "promote", frozen, "--reason", "looked at it", "--actor", "bob")[0] == 0
    assert standing(engine) == Standing(frozen, frozen, frozen=False, actor="bob", reason="looked at it")
    fill(engine, 501, 600)
    train(engine, key)
    assert standing(engine).champion == versions(engine)[-1] != frozen
    assert standing(engine).reference == frozen
    acts = [(act["act"], act["actor"]) for act in audited(engine) if act["actor"] != BY_TRAINER]
    assert acts == [("model.rolled_back", "ann"), ("model.promoted", "bob")]


def test_what_another_release_made_is_no_reference(engine: Engine, key: bytes) -> None:
    """After an upgrade the champion cannot be read: the first of this release is what later ones are held against."""
    older = sealed_arrays({"format": 1, "version": 7, "last_seq": 0, "learned": 9, "ready": True}, b"", key, PURPOSE)
    with engine.begin() as conn:
        model_store.publish(conn, older)
        model_store.give(conn, Verdict(7, "promoted", "pointguard migrate", "was in use before there were verdicts"))
    assert (standing(engine).champion, standing(engine).reference) == (7, None)
    for last in (200, 400):
        fill(engine, last - 199, last)
        train(engine, key)
    assert versions(engine)[1] == 8
    assert standing(engine).reference == 8
    assert standing(engine).champion == versions(engine)[-1] > 8


def test_rolling_back_twice_goes_back_twice(engine: Engine, key: bytes, run: Command) -> None:
    """The snapshot that was just found bad never comes back into use by a second roll-back."""
    for last in (200, 400, 600):
        fill(engine, last - 199, last)
        train(engine, key)
    used = [version for version, _, _ in verdicts(engine)]
    for version in used[-2::-1]:
        assert run("model", "rollback", "--reason", "still finds nothing")[0] == 0
        assert standing(engine).champion == version
    assert "no other snapshot was in use before it" in run("model", "rollback", "--reason", "x")[1]


def test_a_verdict_that_cannot_be_is_refused(engine: Engine, key: bytes, run: Command) -> None:
    """No such snapshot, one that does not verify, none before, the one in use, no reason or nobody: each by name."""
    assert run("model", "rollback", "--reason", "x")[0] == USAGE
    fill(engine, 1, 180)
    train(engine, key)
    for arguments, said in (
        (("promote", 77, "--reason", "x"), "there is no snapshot 77"),
        (("rollback", "--reason", "x"), "no other snapshot was in use before it"),
        (("rollback", "--to", 1, "--reason", "x"), "in use already"),
        (("promote", 1, "--reason", "  "), "needs a reason"),
        (("promote", 1, "--reason", "x", "--actor", "trainer "), "'trainer' is the name of the gate"),
        (("promote", 1, "--reason", "x", "--actor", "  "), "1 to 128 characters"),
        (("rollback", "--to", 1, "--reason", "x", "--actor", "a" * 129), "1 to 128 characters"),
        (("show", 77), "there is no snapshot 77"),
    ):
        code, text_ = run("model", *arguments)
        assert (code, said in text_) == (USAGE, True), text_
    with engine.begin() as conn:
        conn.execute(text("UPDATE model_snapshot SET arrays = arrays || '\\x00'"))
    code, said = run("model", "promote", 1, "--reason", "x")
    assert (code, "cannot be used" in said) == (USAGE, True)
    assert verdicts(engine) == [(1, "promoted", BY_TRAINER)]


def test_list_and_show_say_what_is_in_use_and_why(engine: Engine, key: bytes, run: Command) -> None:
    """Versions with their use and verdict; the checks with their figures; drift, largest first; JSON for machines."""
    assert "No snapshot yet" in run("model", "list")[1]
    fill(engine, 1, 180, fraud_every=5)
    train(engine, key)
    fill(engine, 181, 400, scale=30.0)
    train(engine, key, STRICT)
    listed = run("model", "list")[1]
    assert "champion, reference" in listed
    assert "refused by trainer: PSI of shares" in listed
    rows = json.loads(run("model", "list", "--json")[1])
    assert [row["version"] for row in rows] == versions(engine)[::-1]
    shown = run("model", "show", versions(engine)[-1])[1]
    for expected in ("not in use", "PSI of shares", "drift since the reference", "another population"):
        assert expected in shown
    machine = json.loads(run("model", "show", "--json")[1])
    assert machine["use"] == "champion, reference"
    assert machine["verdicts"][0]["checks"][0]["passed"] is True


def test_the_log_is_verified_against_what_is_in_use(
    engine: Engine, key: bytes, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was changed is told, and apart from it that models of other parameters cannot be made again."""
    fill(engine, 1, 180)
    train(engine, key)
    code, said = run("model", "verify")
    assert (code, "other params" in said, "does not lead" in said) == (USAGE, True, False)
    monkeypatch.setattr("streams.trainer.TrainerParams", lambda: FREE)
    assert run("model", "verify")[0] == 0
    with engine.begin() as conn:
        conn.execute(text("UPDATE label_log SET label = 1 WHERE seq = 7"))
    code, said = run("model", "verify")
    assert (code, "does not lead to snapshot" in said) == (FOUND, True)


def test_drift_is_shown_and_told_once(engine: Engine, key: bytes) -> None:
    """Inputs that moved since the reference stand in the metrics, and in one alert each."""
    fill(engine, 1, 300)
    metrics = train(engine, key)
    calm = metrics.gauge(MODEL_DRIFT, "event.points")._value.get()
    fill(engine, 301, 2_300, scale=30.0)
    train(engine, key, FREE, metrics)
    moved = metrics.gauge(MODEL_DRIFT, "event.points")._value.get()
    assert calm < 0.1
    assert moved > 0.25
    alerts = [alert for alert in told(engine) if alert["alert"] == "model_drift"]
    by_psi = [alert["field"] for alert in alerts if alert["error"] == "psi"]
    assert "event.points" in by_psi
    assert len(set(by_psi)) == len(by_psi)
    means = [alert["field"] for alert in alerts if alert["error"] == "page_hinkley"]
    assert "velocity.account.count_1h" in means
    assert metrics.counter(MODEL_ALARMS, "velocity.account.count_1h")._value.get() >= 1


def test_old_challengers_are_forgotten_champions_never(engine: Engine, key: bytes) -> None:
    """What was in use is kept, for decisions name it; of what was refused the latest twenty."""
    fill(engine, 1, 180)
    trainer = Trainer(engine, key, Metrics(), replace(STRICT, publish_rows=10, chunk_rows=10))
    drain(trainer)
    fill(engine, 181, 600)
    drain(trainer)
    kept, promoted = versions(engine), {version for version, kind, _ in verdicts(engine) if kind == "promoted"}
    assert promoted < set(kept)
    assert len(set(kept) - promoted) <= model_store.CHALLENGERS_KEPT < len(verdicts(engine))
    assert len(checkpoints(engine)) == model_store.CHECKPOINTS_KEPT
