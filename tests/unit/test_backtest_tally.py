"""The counts of a backtest against counting by hand, over any verdicts, labels and points."""

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from config.policy import default_policy_text, parse_policy
from detectors.backtest import FRAUD, HONEST, VERDICTS, Frame, Report, Tally, codes, report_of
from detectors.decision import Decision, Reason

POLICY = parse_policy(default_policy_text())
EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2**53 - 1)), max_size=60
)
STOPPED = ("hold", "reject")


def reported(tally: Tally, days: float = 2.0) -> Report:
    """The report of a tally, cases of six minutes."""
    return report_of(tally, Frame(POLICY, 1, days, 6.0, {}))


@given(EVENTS, st.integers(1, 7))
def test_a_report_counts_what_there_is(events: list[tuple[int, int, int, int]], cut: int) -> None:
    """Whatever batches the events come in, sums are exact, also of points beyond what doubles hold."""
    tally = Tally()
    for start in range(0, len(events), cut):
        was, becomes, labels, points = (np.array(column) for column in zip(*events[start : start + cut], strict=True))
        tally.add(was, becomes, labels, points)
    report = reported(tally)
    assert (report.events, report.points) == (len(events), sum(event[3] for event in events))
    for place, side in ((0, report.in_force), (1, report.draft)):
        named = [(VERDICTS[event[place]], event[2], event[3]) for event in events]
        caught = [points for verdict, label, points in named if verdict in STOPPED and label == FRAUD]
        delayed = [points for verdict, label, points in named if verdict in STOPPED and label == HONEST]
        cases = sum(verdict in {"hold", "suspicious"} for verdict, _, _ in named)
        fraud = sum(label == FRAUD for _, label, _ in named)
        assert side.verdicts == {name: sum(verdict == name for verdict, _, _ in named) for name in VERDICTS}
        assert (side.fraud_events, side.fraud_points) == (len(caught), sum(caught))
        assert (side.honest_events, side.honest_points) == (len(delayed), sum(delayed))
        assert side.holds_per_day == cases / 2.0
        assert side.hours_per_day == cases * 6.0 / 60.0 / 2.0
        assert side.recall == (len(caught) / fraud if fraud else None)
        assert side.precision == (len(caught) / len(caught + delayed) if caught + delayed else None)
    changed = [event for event in events if event[0] != event[1]]
    assert sum(flip.events for flip in report.flips) == len(changed)
    assert sum(flip.points for flip in report.flips) == sum(event[3] for event in changed)
    assert [flip.points for flip in report.flips] == sorted((flip.points for flip in report.flips), reverse=True)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def decision(outcome: str, *reasons: Reason, suspicious: bool = False) -> Decision:
    """A decision of some outcome."""
    return Decision(
        outcome=outcome, score=0.5, reasons=reasons, suspicious=suspicious, policy_version=1, model_version=None  # type: ignore[arg-type]  # cases name outcomes
    )  # fmt: skip


def test_verdicts_as_codes() -> None:
    """What was posted and marked is a verdict of its own; a notice counts as approved."""
    made = [
        decision("approve"), decision("approve", suspicious=True), decision("hold"), decision("reject"),
        decision("noted"),
    ]  # fmt: skip
    assert [VERDICTS[code] for code in codes(made)] == ["approve", "suspicious", "hold", "reject", "approve"]


def test_rules_are_counted_with_effect_or_on_trial() -> None:
    """Hits by label, points and precision; snoozed ones and other causes are no hits; silent rules are there."""
    tally = Tally()
    fired = Reason(code="rapid_repeat", kind="rule", contribution=3.2)
    made = [
        decision("hold", fired),
        decision("approve", Reason(code="rapid_repeat", kind="shadow")),
        decision("approve", Reason(code="rapid_repeat", kind="snoozed")),
        decision("hold", Reason(code="points_over_max", kind="policy")),
    ]
    labels, points = np.array([FRAUD, HONEST, HONEST, 0]), np.array([10, 20, 30, 40])
    tally.add(codes(made), codes(made), labels, points)
    tally.add_rules(made, labels, points)
    lines = {line.rule: line for line in reported(tally).rules}
    assert set(lines) == {rule.id for rule in POLICY.rules}
    line = lines["rapid_repeat"]
    assert (line.hits, line.points, line.fraud, line.honest, line.precision, line.share) == (2, 30, 1, 1, 0.5, 0.5)
    assert (lines["ip_shared"].hits, lines["ip_shared"].precision) == (0, None)
