"""Classic anomaly sets as streams: in file order, shuffled, and with the anomalies packed into five bursts.

No labels are used: a row is scored, then learned. HalfSpaceTrees as they come with River stand beside our models, and
the published figures of Online Isolation Forest (Leveni et al., ICML 2024) for shuffled streams.
"""

from pathlib import Path

import numpy as np

from bench.quality_data import SETS, Integers, anomalies
from bench.quality_metrics import auc, average_precision
from bench.quality_models import TOGETHER, UNSUPERVISED, packed, stock_trees, without_labels
from bench.quality_report import Bar, Columns, Table, row_of
from detectors.layout import Floats
from detectors.models_tails import Side

BURSTS = 5
BOTH: tuple[Side, ...] = ("both",)
STOCK = "HalfSpaceTrees (River, as they come)"
ORDERS = ("shuffled", "five bursts", "file order")
PUBLISHED = {"shuttle": (".992", ".981"), "cover": (".887", ".722"), "mammography": (".854", ".831")}
LEAST = {"shuttle": 0.985, "cover": 0.85, "mammography": 0.85}
BURST_LOSS_MAX = 0.05
Found = dict[tuple[str, str], list[tuple[float, float]]]


def measure_sets(folder: Path | None, seeds: int, rows_max: int | None = None) -> tuple[list[Table], list[Columns]]:
    """A table a set, and a plot of all. River's trees cost minutes on large sets: one seed where a set has 100,000."""
    tables: list[Table] = []
    shuffled: dict[str, list[float]] = {}
    burst: dict[str, list[float]] = {}
    for name in SETS:
        inputs, anomaly = anomalies(folder, name)
        strange = anomaly.astype(np.int64)[:rows_max]
        found = _runs(inputs[:rows_max], strange, seeds)
        tables.append(_table(name, strange, found))
        for model in (*UNSUPERVISED, STOCK):
            shuffled.setdefault(model, []).append(_mean(found, model, "shuffled"))
            burst.setdefault(model, []).append(_mean(found, model, "five bursts"))
    plots = [
        Columns("shuffled", "Anomalies spread over the stream", SETS, shuffled),
        Columns("bursts", "The same rows, anomalies packed into five bursts", SETS, burst),
    ]
    return tables, plots


def _runs(inputs: Floats, strange: Integers, seeds: int) -> Found:
    """AUC and average precision by model and order, a list over seeds (file order: seeds of the models only)."""
    found: Found = {}
    for seed in range(1, seeds + 1):
        for order, rows in _orders(strange, seed).items():
            scores = without_labels(inputs[rows], BOTH * inputs.shape[1], seed)
            if seed == 1 or len(inputs) < 100_000:
                scores[STOCK] = stock_trees(inputs[rows], seed)
            truth = strange[rows] == 1
            for model, each in scores.items():
                found.setdefault((model, order), []).append((auc(truth, each), average_precision(truth, each)))
    return found


def _orders(strange: Integers, seed: int) -> dict[str, Integers]:
    rows = np.arange(len(strange))
    shuffled = np.random.default_rng(seed).permutation(rows)
    return dict(zip(ORDERS, (shuffled, packed(strange, BURSTS, seed), rows), strict=True))


def _mean(found: Found, model: str, order: str) -> float:
    return float(np.mean([figures[0] for figures in found[model, order]]))


def _table(name: str, strange: Integers, found: Found) -> Table:
    rows = []
    for model in (*UNSUPERVISED, STOCK):
        for order in ORDERS:
            bar = None
            if model == TOGETHER and order == "shuffled":
                bar = Bar((LEAST[name],))
            elif model == TOGETHER and order == "five bursts":
                bar = Bar((round(_mean(found, model, "shuffled") - BURST_LOSS_MAX, 3),))
            rows.append(row_of(f"{model}, {order}", found[model, order], bar))
    ours, theirs = PUBLISHED[name]
    rows.append(("published, shuffled: Online Isolation Forest", ours, "", ""))
    rows.append(("published, shuffled: HalfSpaceTrees", theirs, "", ""))
    about = f"{len(strange):,} rows, {strange.mean():.2%} anomalies; nothing is told about them."
    return Table(name.capitalize(), about, ("AUC ROC", "average precision"), rows)
