"""The evaluation of detection quality: runs whole on small files, says what is missing, scores before it learns."""

import csv
import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from bench import quality
from bench.quality_data import DataMissing, file_of, handbook
from bench.quality_models import packed, rarity, steps, with_labels, without_labels
from bench.quality_report import Bar, Figure, row_of
from detectors.layout import Floats
from detectors.models_forest import ForestParams

START = datetime(2018, 4, 1, tzinfo=UTC)
ANOMALIES = 40


def write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    """A compressed CSV file."""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files of the shapes that the evaluation reads, with fraud that can be found."""
    rng = np.random.default_rng(1)
    data = tmp_path / "data"
    data.mkdir()
    rows: list[list[object]] = []
    for number, second in enumerate(np.sort(rng.integers(0, 137 * 86_400, 6_000)).tolist()):
        fraud = int(rng.random() < 0.05)
        amount = round(float(rng.random() * 50 + 400 * fraud), 2)
        card, shop = int(rng.integers(300)), int(rng.integers(40))
        rows.append([number, START + timedelta(seconds=second), card, shop, amount, second, second // 86_400, fraud, 0])
    names = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_TIME_SECONDS,TX_TIME_DAYS,TX_FRAUD"
    write(data / "handbook_visible.csv.gz", [*names.split(","), "TX_FRAUD_SCENARIO"], rows)
    rows = [[n, f"S{n % 90}", f"T{n % 7}", 10 + 90 * (n % 9 == 0), "L1", "TP1", [0, 1, 2][n % 3]] for n in range(900)]
    write(data / "sffsd_first60.csv.gz", ["Time", "Source", "Target", "Amount", "Location", "Type", "Labels"], rows)
    bought = [_purchase(number, fraud=number % 5 == 0) for number in range(200)]
    write(data / "ecom_visible.csv.gz", list(bought[0]), [list(row.values()) for row in bought])
    inputs = np.concatenate((rng.normal(size=(900, 4)), rng.normal(6, 1, size=(ANOMALIES, 4))))
    for name in ("10_cover.npz", "23_mammography.npz"):
        np.savez(data / name, X=inputs, y=np.arange(len(inputs)) >= 900)
    return data


def _purchase(number: int, *, fraud: bool) -> dict[str, object]:
    signed_up = START + timedelta(hours=number)
    bought = signed_up + (timedelta(seconds=1) if fraud else timedelta(days=3))
    clock = "%Y-%m-%d %H:%M:%S"
    return {
        "user_id": number, "signup_time": signed_up.strftime(clock), "purchase_time": bought.strftime(clock),
        "purchase_value": 30, "device_id": f"D{number}", "ip_address": 3_000_000_000.0 + number, "class": int(fraud),
    }  # fmt: skip


def test_a_quick_run_writes_every_part(folder: Path, tmp_path: Path) -> None:
    """The page has a table of each part, beside the published figures, and its plots exist."""
    output = tmp_path / "results"
    assert quality.main([str(folder), "--quick", "--output", str(output)]) == 0
    page = (output / "quality.md").read_text(encoding="utf-8")
    titles = (
        "Fraud Detection Handbook",
        "S-FFSD",
        "Shuttle",
        "Cover",
        "Mammography",
        "Simulator",
        "finforge",
        "a shop",
    )
    assert [title for title in titles if title not in page] == []
    assert "Handbook: random forest" in page
    assert "nan" not in page
    assert {path.name for path in output.glob("*.svg")} == {
        "quality-handbook.svg", "quality-shuffled.svg", "quality-bursts.svg"
    }  # fmt: skip


def test_parts_can_be_run_alone_and_come_out_the_same(folder: Path, tmp_path: Path) -> None:
    """Two runs of one part write the same bytes, plots too, and nothing of other parts."""
    for name in ("first", "second"):
        assert quality.main([str(folder), "--quick", "--only", "handbook", "--output", str(tmp_path / name)]) == 0
    written = [path.name for path in sorted((tmp_path / "first").iterdir())]
    assert written == ["quality-handbook.svg", "quality.md"]
    for name in written:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_part_replaces_its_own_section(folder: Path, tmp_path: Path) -> None:
    """The section of another part stays where it is, and the page has one of each in the order of the parts."""
    run = [str(folder), "--quick", "--output", str(tmp_path), "--only"]
    assert quality.main([*run, "sffsd"]) == 0
    first = (tmp_path / "quality.md").read_text(encoding="utf-8")
    (tmp_path / "quality.md").write_text(first.replace("S-FFSD", "S-OLD"), encoding="utf-8")
    assert quality.main([*run, "handbook"]) == 0
    assert quality.main([*run, "handbook"]) == 0
    page = (tmp_path / "quality.md").read_text(encoding="utf-8")
    assert page.count("## S-OLD") == page.count("## Card transactions") == 1
    assert page.index("## Card transactions") < page.index("## S-OLD")
    assert quality.main([*run, "sffsd"]) == 0
    assert (tmp_path / "quality.md").read_text(encoding="utf-8") == page.replace("S-OLD", "S-FFSD")


def test_missing_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the file and both ways to give its folder; without a folder it says so."""
    assert quality.main([str(tmp_path), "--quick", "--output", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "handbook_visible.csv.gz is missing" in told
    assert "POINTGUARD_DATA" in told
    with pytest.raises(DataMissing, match="no data folder given"):
        file_of(None, "ecom")
    write(tmp_path / "handbook_visible.csv.gz", ["TX_FRAUD"], [[1]])
    with pytest.raises(DataMissing, match="no column TX_TIME_SECONDS"):
        handbook(tmp_path)


def test_the_folder_may_come_from_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POINTGUARD_DATA stands in for the argument."""
    monkeypatch.setenv("POINTGUARD_DATA", str(folder))
    assert quality.main(["--quick", "--only", "sffsd", "--output", str(tmp_path)]) == 0


def drawn(count: int) -> Floats:
    """Rows of three inputs."""
    return np.random.default_rng(5).random((count, 3))


def test_a_score_knows_nothing_of_its_own_row_or_later_ones() -> None:
    """Changing the end of a stream leaves every earlier score as it was, with and without labels."""
    inputs, count = drawn(1_300), 1_300
    other = inputs.copy()
    other[1_000:] = 0.99
    fraud = (inputs[:, 0] > 0.8).astype(np.int64)
    known = np.maximum(np.arange(count) - 100, 0)
    params = ForestParams(trees=5, height=4, regrow_rows=100)
    for before, after in (
        (without_labels(inputs, ("high",) * 3, 1)["tails"], without_labels(other, ("high",) * 3, 1)["tails"]),
        (without_labels(inputs, ("both",) * 3, 1)["isolation"], without_labels(other, ("both",) * 3, 1)["isolation"]),
        (with_labels(inputs, fraud, known, (0, count), params), with_labels(other, fraud, known, (0, count), params)),
    ):
        assert before[:1_000].tolist() == after[:1_000].tolist()
        assert before[1_000:].tolist() != after[1_000:].tolist()


def test_labels_are_learned_no_earlier_than_they_are_known() -> None:
    """Changing the labels that are not known by a step changes none of its scores; changing known ones does."""
    inputs, count = drawn(1_500), 1_500
    fraud = (inputs[:, 0] > 0.7).astype(np.int64)
    known = np.maximum(np.arange(count) - 400, 0)
    params = ForestParams(trees=5, height=4, regrow_rows=100)
    wanted = (1_000, count)
    scores = with_labels(inputs, fraud, known, wanted, params)
    late, early = fraud.copy(), fraud.copy()
    late[600:] = 1 - late[600:]
    early[:600] = 1 - early[:600]
    assert scores.tolist() == with_labels(inputs, late, known, wanted, params).tolist()
    assert scores.tolist() != with_labels(inputs, early, known, wanted, params).tolist()


def test_steps_cover_the_stream_once() -> None:
    """Whatever its length, every row lies in exactly one step, and snapshots are never older than 500 rows."""
    for rows in (1, 31, 32, 33, 500, 501, 2_345):
        parts = steps(rows)
        assert [row for first, last in parts for row in range(first, last)] == list(range(rows))
        assert max(last - first for first, last in parts) <= 500


def test_rarity_keeps_the_order_of_a_settled_scale() -> None:
    """Higher scores are never less rare within a step, and the highest of a long stream come near -log of one row."""
    scores = np.random.default_rng(6).random(3_000)
    found = rarity(scores, 1)
    part = slice(2_500, 3_000)
    order = np.argsort(scores[part])
    assert (np.diff(found[part][order]) >= 0).all()
    assert found[part].max() > 6.0


def test_bursts_hold_all_rows_and_pack_the_anomalies() -> None:
    """The order is a permutation, and anomalies lie in at most five runs."""
    strange = (np.arange(1_000) % 20 == 0).astype(np.int64)
    order = packed(strange, 5, 3)
    assert sorted(order.tolist()) == list(range(1_000))
    runs = np.count_nonzero(np.diff(np.concatenate(([0], strange[order]))) == 1)
    assert 1 <= runs <= 5
    assert order.tolist() != packed(strange, 5, 4).tolist()


def test_a_row_says_whether_it_reaches_its_bar() -> None:
    """The verdict is on means, and names the bar; the range shows where seeds differ."""
    assert row_of("x", [(0.8, 0.5), (0.9, 0.5)], Bar((0.85, 0.5))) == (
        "x", "0.850 (0.800–0.900)", "0.500", "reached (0.85/0.5)"
    )  # fmt: skip
    assert row_of("x", [(0.8,)], Bar((0.85,)))[-1] == "missed (0.85)"
    assert row_of("x", [(0.8,)], None) == ("x", "0.800", "")


def test_a_plot_shows_its_curves(tmp_path: Path) -> None:
    """The SVG has the title and a legend entry for each curve."""
    fraud = np.arange(100) % 10 == 0
    path = Figure("t", "a title", fraud, np.ones(100), {"one": np.arange(100.0), "two": np.ones(100)}).draw(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert [word for word in ("a title", "one", "two") if word not in text] == []
