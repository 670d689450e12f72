"""The velocity contract: names, observations from events, and observations from the past."""

from dataclasses import replace

import numpy as np

from detectors.entity import Keys
from detectors.event import Earn, Event, Login, Transfer, decode, milliseconds
from detectors.velocity import HistoryRow, Observations, Observed, history, needed, observations
from detectors.velocity_names import KINDS
from tests.unit.event_samples import full, least, raw

KEYS = Keys(b"0123456789abcdef0123456789abcdef")


def event(fields: dict[str, object]) -> Event:
    """Decode a sample."""
    decoded = decode(raw(fields))
    assert isinstance(decoded, Event)
    return decoded


def observe(*events: Event) -> Observations:
    """Observations of all kinds, a millisecond apart from second 1 on."""
    return observations([Observed(one, 1_000 + place) for place, one in enumerate(events)], KEYS, range(len(KINDS)))


def test_observations_keep_the_order_and_know_what_is_absent() -> None:
    """Each event is a row; what it lacks is 0; only a transfer has a peer; only what moves has points."""
    made = observe(event(full("earn")), event(least("login")), event(least("transfer")))
    assert len(made) == 3
    assert made.time.tolist() == [1_000, 1_001, 1_002]
    assert made.points.tolist() == [1200, 0, 50]
    assert (made.entity != 0).tolist() == [[True] * 9, [True] + [False] * 8, [True] + [False] * 8]
    assert len(set(made.entity[0].tolist())) == 9
    assert (made.peer != 0).tolist() == [False, False, True]
    assert made.peer[2] == KEYS.hash64("demo", "account", b"member-2")
    assert len(set(made.event.tolist())) == 1, "one id of one source is one event, whatever its type"


def test_a_reversal_is_counted_but_adds_no_points() -> None:
    """It takes back what was counted when it came: a day of refunds is no day of spending."""
    assert observe(event(least("reverse")), event(full("reverse"))).points.tolist() == [0, 0]


def test_no_events_make_no_observations() -> None:
    """A batch of refused events is an empty one."""
    made = observe()
    assert len(made) == 0
    assert made.entity.shape == (0, 9)


def test_programmes_do_not_share_entities() -> None:
    """The same nine entities in two programmes are eighteen, and two events."""
    made = observe(*(event(full("earn", program=program)) for program in ("a", "b")))
    assert made.programs == ("a", "b")
    assert made.program.tolist() == [0, 1]
    assert len({*made.entity.ravel().tolist(), *made.event.tolist()}) == 20


def test_every_spelling_of_an_entity_is_one() -> None:
    """An address as integer, and a device with white space, meet their usual spelling."""
    made = observe(event(full("earn")), event(full("earn", ip="3405803853", device=" d-9 ", payment=" tok-1 ")))
    assert made.entity[0].tolist() == made.entity[1].tolist()


def test_neighbouring_addresses_share_a_prefix() -> None:
    """Addresses of one IPv4 /24 or IPv6 /64 network are different addresses with one prefix; the next is another."""
    addresses = ("203.0.113.77", "203.0.113.1", "203.0.114.77", "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1")
    made = observe(*(event(least("login", ip=ip)) for ip in addresses))
    ips, prefixes = made.entity[:, KINDS.index("ip")], made.entity[:, KINDS.index("ip_prefix")].tolist()
    assert len(set(ips.tolist())) == 6
    assert prefixes[0] == prefixes[1] != prefixes[2]
    assert prefixes[3] == prefixes[4] != prefixes[5]
    assert len(set(prefixes)) == 4


def test_only_what_some_kinds_need_is_hashed() -> None:
    """A kind's own entity and the others its records show; the rest counts as absent."""
    staff = KINDS.index("staff")
    assert [KINDS[kind] for kind in needed([staff])] == ["account", "store", "staff"]
    made = observations([Observed(event(full("earn")), 0)], KEYS, [staff])
    assert [KINDS[kind] for kind in np.flatnonzero(made.entity[0])] == ["account", "store", "staff"]


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
                ip_prefix=None if one.ip is None else KEYS.ip_prefix(one.ip),
                store=one.store,
                staff=one.staff,
                campaign=one.campaign,
                payment=None if one.payment is None else KEYS.payment(one.payment),
                referrer=one.referrer,
                to=one.to if isinstance(one, Transfer) else None,
            )
        )
    past = history(rows, KEYS, range(len(KINDS)))
    present = observations([Observed(one, milliseconds(one.occurred_at)) for one in events], KEYS, range(len(KINDS)))
    assert past.programs == present.programs
    for name in ("program", "time", "event", "entity", "peer", "points"):
        assert np.array_equal(getattr(past, name), getattr(present, name)), name


def test_a_part_keeps_its_rows() -> None:
    """Cutting a batch keeps each row whole."""
    made = observe(*(event(least("earn", id=f"e-{n}")) for n in range(5)))
    assert made.part(1, 3).time.tolist() == [1_001, 1_002]
    assert made.part(3, 9).event.tolist() == made.event[3:].tolist()
    assert len(replace(made, programs=("x",)).part(0, 0)) == 0


def test_a_login_without_device_only_touches_its_account() -> None:
    """Absent entities are no entity, so that nobody shares the lack of a device."""
    made = observe(*(event(least("login", id=name)) for name in "ab"))
    assert isinstance(event(least("login")), Login)
    assert made.entity[:, 1:].tolist() == [[0] * 8] * 2


def test_an_entitys_number_is_that_of_what_is_stored_of_it() -> None:
    """What the producer wrote, and the pseudonym kept with the decision, give one number."""
    made = observe(event(full("earn")))
    stored = {
        "account": b"member-1", "device": KEYS.device("d-9"), "ip": KEYS.ip("203.0.113.77"),
        "ip_prefix": KEYS.ip_prefix("203.0.113.77"), "store": "店-17".encode(), "staff": b"clerk-3",
        "campaign": b"spring", "payment": KEYS.payment("tok-1"), "referrer": b"member-9",
    }  # fmt: skip
    assert made.entity[0].tolist() == [KEYS.hash64("demo", kind, stored[kind]) for kind in KINDS]
