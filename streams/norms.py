"""Accounts' own norms in PostgreSQL: the trainer folds them from good events, workers read them with a batch.

A row knows the last label it has learned from, so a label that comes again, as after a restart, adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Connection

from detectors.layout import NORM, Floats, Layout, by_name
from detectors.models_norm import AMOUNT_NAMES, QUANTITIES, Amounts, States, amounts_of, compare, learn, no_states
from ledger.arrays import bigints, byteas, fetch, run, texts

if TYPE_CHECKING:  # workers need no River
    from detectors.models_learner import LabelRow

AccountKey = tuple[str, str]
"""Programme and account."""

_READ = """
SELECT t.place, n.seq, n.state
  FROM unnest(%(programs)s, %(accounts)s) WITH ORDINALITY AS t(program, account, place)
  JOIN account_norm n ON n.program = t.program AND n.account = t.account"""
_WRITE = """
INSERT INTO account_norm (program, account, seq, state)
SELECT program, account, seq, state
  FROM unnest(%(programs)s, %(accounts)s, %(seqs)s, %(states)s) AS t(program, account, seq, state)
 ORDER BY program, account
ON CONFLICT (program, account) DO UPDATE SET seq = excluded.seq, state = excluded.state"""


def fill(conn: Connection, features: Floats, layout: Layout, accounts: Sequence[AccountKey]) -> None:
    """Write the columns of NORM into `features` float64[n, layout.width], beside the `accounts` of its rows."""
    if not len(features):
        return
    keys = list(dict.fromkeys(accounts))
    place = {key: at for at, key in enumerate(keys)}
    states = _read(conn, keys)[0][[place[key] for key in accounts]]
    first = layout.index[NORM[0]]
    amounts = amounts_of(by_name(features, layout, AMOUNT_NAMES), AMOUNT_NAMES)  # unknown where the layout lacks one
    features[:, first : first + len(NORM)] = compare(states, amounts)


def follow(conn: Connection, rows: Sequence[LabelRow]) -> None:
    """Fold the good rows of the log, in their order, in the caller's transaction."""
    taught = [row for row in rows if row.label == 0 and row.inputs is not None and row.account]
    if not taught:
        return
    keys = list(dict.fromkeys((row.program, row.account) for row in taught))
    place = {key: at for at, key in enumerate(keys)}
    states, seqs = _read(conn, keys)
    fresh = [row for row in taught if row.seq > seqs[place[row.program, row.account]]]
    if not fresh:
        return
    amounts: Amounts = amounts_of(np.stack([row.inputs for row in fresh if row.inputs is not None]))
    who = np.array([place[row.program, row.account] for row in fresh], dtype=np.intp)
    after = learn(states, who, amounts)
    last = {at: row.seq for at, row in zip(who.tolist(), fresh, strict=True)}
    changed = sorted(last)
    run(
        conn,
        _WRITE,
        {
            "programs": texts([keys[at][0] for at in changed]),
            "accounts": texts([keys[at][1] for at in changed]),
            "seqs": bigints([last[at] for at in changed]),
            "states": byteas([after[at].astype("<f8").tobytes() for at in changed]),
        },
    )


def _read(conn: Connection, keys: Sequence[AccountKey]) -> tuple[States, list[int]]:
    """The states of these accounts and the last label of each, 0 for one that nothing is known of."""
    states, seqs = no_states(len(keys)), [0] * len(keys)
    wanted = {"programs": texts([key[0] for key in keys]), "accounts": texts([key[1] for key in keys])}
    found = fetch(conn, _READ, wanted)
    if found:
        places, last, stored = zip(*found, strict=True)
        states[np.array(places) - 1] = np.frombuffer(b"".join(stored), dtype="<f8").reshape(-1, QUANTITIES, 3)
        for place, seq in zip(places, last, strict=True):
            seqs[place - 1] = seq
    return states, seqs
