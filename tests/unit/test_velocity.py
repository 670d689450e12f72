"""The velocity contract: names, observations from events, and observations from the past."""

from dataclasses import replace

import numpy as np

from detectors.entity import Keys
from detectors.event import Earn, Event, Login, Transfer, decode, milliseconds
from detectors.velocity import KINDS, VELOCITY_FEATURES, WINDOWS, HistoryRow, Observed, history, observations
from tests.unit.event_samples import full, least, raw

KEYS = Keys(b"0123456789abcdef0123456789abcdef")


def event(fields: dict[str, object]) -> Event:
    """Decode a sample."""
    decoded = decode(raw(fields))
    assert isinstance(decoded, Event)
    return decoded


def test_features_are_named_by_kind_aggregate_and_window() -> None:
    """There are 44 names, each once, in the order that matrices have."""
    assert len(VELOCITY_FEATURES) == len(set(VELOCITY_FEATURES)) == 44
    assert VELOCITY_FEATURES[:5] == (
        "velocity.account.count_1m",
        "velocity.account.count_1h",
        "velocity.account.count_24h",
        "velocity.account.count_7d",
        "velocity.account.sum_1m",
    )
    assert {"velocity.device.accounts_7d", "velocity.account.peers_24h", "velocity.ip.sum_1h"} < set(VELOCITY_FEATURES)
    assert tuple(WINDOWS) == ("1m", "1h", "24h", "7d")
    assert KINDS == ("account", "device", "ip")


def test_observations_keep_the_order_and_know_what_is_absent() -> None:
    """Each event is a row; what it lacks is 0; only a transfer has a peer; only what moves has points."""
    events = [event(full("earn")), event(least("login")), event(least("transfer"))]
    made = observations([Observed(one, 1_000 + place) for place, one in enumerate(events)], KEYS)
    assert len(made) == 3
    assert made.time.tolist() == [1_000, 1_001, 1_002]
    assert made.points.tolist() == [1200, 0, 50]
    assert (made.entity != 0).tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert (made.peer != 0).tolist() == [False, False, True]
    assert made.peer[2] == KEYS.hash64("demo", "account", b"member-2")
    assert len(set(made.event.tolist())) == 1, "one id of one source is one event, whatever its type"


def test_a_reversal_is_counted_but_adds_no_points() -> None:
    """It takes back what was counted when it came: a day of refunds is no day of spending."""
    events = [event(least("reverse")), event(full("reverse"))]
    assert observations([Observed(one, 1_000) for one in events], KEYS).points.tolist() == [0, 0]


def test_no_events_make_no_observations() -> None:
    """A batch of refused events is an empty one."""
    made = observations([], KEYS)
    assert len(made) == 0
    assert made.entity.shape == (0, 3)


def test_programmes_do_not_share_entities() -> None:
    """The same account, device and address in two programmes are six entities and two events."""
    events = [event(full("earn", program=program)) for program in ("a", "b")]
    made = observations([Observed(one, 0) for one in events], KEYS)
    assert made.programs == ("a", "b")
    assert made.program.tolist() == [0, 1]
    assert len({*made.entity.ravel().tolist(), *made.event.tolist()}) == 8


def test_every_spelling_of_an_entity_is_one() -> None:
    """An address as integer, and a device with white space, meet their usual spelling."""
    events = [event(full("earn")), event(full("earn", ip="3405803853", device=" d-9 "))]
    made = observations([Observed(one, 0) for one in events], KEYS)
    assert made.entity[0].tolist() == made.entity[1].tolist()


def test_the_past_observes_as_the_present_did() -> None:
    """What the decision table keeps of an event gives the very observation the event gave."""
    events = [event(full("earn")), event(full("transfer", id="e-2")), event(least("adjust", id="e-3"))]
    rows = []
    for one in events:
        assert isinstance(one, Earn | Transfer) or one.type == "adjust"
        rows.append(
            HistoryRow(
                program=one.program,
                source=one.source,
                event_id=one.id,
                account=one.account,
                time_ms=milliseconds(one.occurred_at),
                points=getattr(one, "points", 0),
                device=None if one.device is None else KEYS.device(one.device),
                ip=None if one.ip is None else KEYS.ip(one.ip),
                to=one.to if isinstance(one, Transfer) else None,
            )
        )
    past = history(rows, KEYS)
    present = observations([Observed(one, milliseconds(one.occurred_at)) for one in events], KEYS)
    assert past.programs == present.programs
    for name in ("program", "time", "event", "entity", "peer", "points"):
        assert np.array_equal(getattr(past, name), getattr(present, name)), name


def test_a_part_keeps_its_rows() -> None:
    """Cutting a batch keeps each row whole."""
    made = observations([Observed(event(least("earn", id=f"e-{n}")), n) for n in range(5)], KEYS)
    assert made.part(1, 3).time.tolist() == [1, 2]
    assert made.part(3, 9).event.tolist() == made.event[3:].tolist()
    assert len(replace(made, programs=("x",)).part(0, 0)) == 0


def test_a_login_without_device_only_touches_its_account() -> None:
    """Absent entities are no entity, so that nobody shares the lack of a device."""
    made = observations([Observed(event(least("login", id=name)), 0) for name in "ab"], KEYS)
    assert isinstance(event(least("login")), Login)
    assert made.entity[:, 1:].tolist() == [[0, 0], [0, 0]]
