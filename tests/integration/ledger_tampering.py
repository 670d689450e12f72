"""How each discrepancy that `verify` names is made, in the ledger of `ledger_world`: statements with `$places`."""

from string import Template

from sqlalchemy import Connection, text

PLACES = {
    "first": "(SELECT min(txn_id) FROM txn)",
    "open": "(SELECT h.hold_id FROM hold h JOIN account a USING (account_id) WHERE h.resolved_at IS NULL"
    " AND h.kind = 'redeem' AND a.name = 'bob')",
    "ann": "(SELECT account_id FROM account WHERE name = 'ann' AND kind = 'member')",
    "bob": "(SELECT account_id FROM account WHERE name = 'bob' AND kind = 'member')",
    "gil": "(SELECT account_id FROM account WHERE name = 'gil' AND kind = 'member')",
    "hal": "(SELECT account_id FROM account WHERE name = 'hal' AND kind = 'member')",
    "dan": "(SELECT account_id FROM account WHERE name = 'dan' AND kind = 'member')",
    "pool": "(SELECT account_id FROM account WHERE kind = 'pool')",
    "given": "(SELECT txn_id FROM txn WHERE event_id = 'eve-gives')",
    "earned": "(SELECT txn_id FROM txn WHERE event_id = 'eve-earns')",
    "parted": "(SELECT hold_id FROM hold_resolution WHERE posted = 4)",
}

LEDGER = {
    "counters_differ": "UPDATE account SET posted_cr = posted_cr + 1 WHERE account_id = $ann",
    "entry_count_differs": "UPDATE account SET entry_count = entry_count + 1 WHERE account_id = $ann",
    "negative_available": """
        UPDATE entry SET amount = amount * 1000 WHERE txn_id = $first + 1;
        UPDATE account SET posted_dr = posted_dr + 9990 WHERE account_id = $ann""",
    "negative_arrears": """
        UPDATE entry SET amount = amount * 9 WHERE account_id = (SELECT account_id FROM account WHERE kind = 'arrears'
            AND name = 'cid') AND amount > 0;
        UPDATE account SET posted_cr = posted_cr * 9 WHERE kind = 'arrears' AND name = 'cid'""",
    "wrong_arrears_link": "UPDATE account SET arrears_id = NULL WHERE name = 'cid' AND kind = 'member'",
    "unbalanced_transaction": "UPDATE entry SET amount = amount + 1 WHERE txn_id = $first AND leg = 1",
    "transaction_without_entries": "DELETE FROM entry WHERE txn_id = $first",
    "entries_without_transaction": "DELETE FROM txn WHERE txn_id = $first",
    "wrong_layers": "UPDATE entry SET layer = 1 WHERE txn_id = $first",
    "wrong_amount": "UPDATE txn SET amount = amount + 1 WHERE txn_id = $first",
    "entry_without_account": "UPDATE entry SET account_id = 999999 WHERE txn_id = $first AND leg = 1",
    "foreign_account": "UPDATE entry SET account_seq = 9, account_id = $dan WHERE txn_id = $first AND leg = 1",
    "wrong_numbering": "UPDATE entry SET account_seq = NULL WHERE txn_id = $first",
    "pending_without_hold": "DELETE FROM hold WHERE hold_id = $open",
    "hold_without_pending": "UPDATE hold SET hold_id = 999999 WHERE hold_id = $open",
    "hold_differs": "UPDATE hold SET account_id = account_id + 1000 WHERE hold_id = $open",
    "ended_without_resolution": "UPDATE hold SET resolved_at = now() WHERE hold_id = $open",
    "resolved_but_open": "UPDATE hold SET resolved_at = NULL WHERE hold_id = $parted",
    "resolution_without_decision": "DELETE FROM review_decision WHERE verdict = 'post'",
    "resolution_without_transaction": """
        DELETE FROM entry WHERE txn_id IN (SELECT txn_id FROM txn WHERE kind = 'void');
        DELETE FROM txn WHERE kind = 'void'""",
    "posted_beyond_hold": "UPDATE hold_resolution SET posted = 7 WHERE hold_id = $parted",
    "transaction_without_resolution": "DELETE FROM hold_resolution WHERE verdict = 'void'",
    "review_without_resolution": """
        INSERT INTO review_decision VALUES (999999, $open, 'post', 'eve', 'mine', now(), now())""",
    "replacement_differs": "UPDATE hold SET replaces = $parted WHERE replaces IS NOT NULL AND kind = 'redeem'",
    "release_differs": """
        UPDATE entry e SET amount = e.amount * 2 FROM txn t WHERE t.txn_id = e.txn_id AND t.kind = 'void';
        UPDATE txn SET amount = amount * 2 WHERE kind = 'void'""",
    "posting_differs": "UPDATE hold_resolution SET posted = 3 WHERE hold_id = $parted",
    "transaction_without_decision": "DELETE FROM decision WHERE decision_id = $first",
    "decision_without_transaction": "UPDATE decision SET outcome = 'approve' WHERE outcome = 'reject'",
    "decision_differs": "UPDATE decision SET account = 'eve' WHERE decision_id = $first",
    "own_without_cause": "UPDATE txn SET event_id = '999999' WHERE kind = 'expire'",
    "expired_early": "UPDATE lot SET expires_at = expires_at + interval '1 year' WHERE account_id = $ann",
    "control_differs": "DELETE FROM control_delta",
    "not_conserved": "UPDATE account SET pending_dr = pending_dr + 1 WHERE name = 'issued' AND program = 'south'",
    "event_without_outcome": """
        INSERT INTO event_inbox VALUES ('till', 'lost', 'log', 'points.events', 3, 17, now(), '')""",
    "event_with_two_outcomes": """
        INSERT INTO dead_letter (log_id, topic, part, "offset", error, first_seen)
        SELECT log_id, topic, part, "offset", 'x', now() FROM event_inbox ORDER BY "offset" LIMIT 1""",
    "lot_differs": "UPDATE lot SET remaining = remaining - 1 WHERE account_id = $dan AND remaining > 0",
    "lot_reserved_differs": "UPDATE lot SET reserved = reserved - 1 WHERE account_id = $bob AND reserved > 0",
    "lot_without_transaction": "UPDATE lot SET txn_id = 999999 WHERE account_id = $dan",
    "lot_misplaced": "UPDATE lot SET account_id = (SELECT min(account_id) FROM account) WHERE account_id = $dan",
    "lot_origin_differs": "UPDATE lot SET earned_at = earned_at - interval '1 day' WHERE parent IS NOT NULL",
    "lots_differ_from_entries": "UPDATE lot SET issued = issued + 1, remaining = remaining + 1 WHERE account_id = $dan",
    "use_without_lot": "DELETE FROM lot WHERE account_id = $bob",
    "child_lots_differ": "UPDATE lot_use SET action = 'transfer' WHERE txn_id = $first + 1",
    "spent_after_expiry": """
        UPDATE lot SET expires_at = '2020-01-01Z' FROM lot_use u WHERE u.lot_id = lot.lot_id AND u.action = 'debit'""",
    "reservation_differs": "UPDATE hold_lot SET amount = amount - 1 WHERE hold_id = $open",
    "lots_differ_from_balance": "UPDATE lot SET account_id = $ann WHERE account_id = $bob AND open",
    "reserved_differs_from_pending": "UPDATE account SET pending_dr = pending_dr - 1 WHERE account_id = $bob",
    "open_holds_differ": "UPDATE account SET open_holds = open_holds + 1 WHERE account_id = $bob",
    "lots_of_nobody": """
        UPDATE lot SET account_id = (SELECT account_id FROM account WHERE kind = 'arrears' AND name = 'cid')
         WHERE account_id = $dan AND open""",
    "merge_differs": "UPDATE account SET merged_into = $bob WHERE account_id = $hal",
    "merged_account_not_empty": "UPDATE account SET pending_cr = 1 WHERE account_id = $hal",
    "wrong_pool": "UPDATE account SET name = 'home' WHERE kind = 'pool'",
    "wrong_pool_member": "UPDATE pool_member SET member_id = $dan",
    "reversal_differs": "UPDATE reversal SET from_lot = from_lot + 1, points = points + 1 WHERE original_txn = $first",
    "reversal_without_cause": "DELETE FROM order_refund WHERE order_id = 'o1'",
    "reversed_beyond_original": """
        UPDATE txn SET amount = 20 WHERE txn_id = $earned""",
    "refunded_beyond_share": "UPDATE order_refund SET amount = 99 WHERE order_id = 'o1'",
    "adjustment_differs": "UPDATE adjustment SET points = 16 WHERE account = 'ida' AND points = 15",
    "adjustment_unchecked": "UPDATE adjustment SET limit_points = 3 WHERE account = 'ida' AND points = 15",
    "adjustment_without_transaction": "UPDATE txn SET source = 'till' WHERE source = 'pointguard:adjustment'",
    "adjustment_verdict_differs": "UPDATE adjustment SET checker = 'bob' WHERE checker = 'cai'",
    "import_verdict_differs": "UPDATE import_job SET checker = 'bob' WHERE checker = 'cai'",
    "import_differs": "UPDATE import_row SET points = 71",
    "import_unchecked": "UPDATE import_job SET checker = ' MIA'",
    "import_rows_differ": "DELETE FROM import_row",
    "import_incomplete": "DELETE FROM import_result",
    "import_without_row": "DELETE FROM import_row",
    "import_without_transaction": "UPDATE txn SET source = 'till' WHERE source = 'pointguard:import'",
    "external_id_differs": "UPDATE import_external SET external_id = 'other'",
}

CHAIN = {
    "link_missing": "DELETE FROM audit_link WHERE chain = 'act:test' AND seq = 2",
    "link_differs": """
        UPDATE audit_link SET entry = replace(entry, 'writer', 'nobody') WHERE chain = 'act:test' AND seq = 2""",
    "link_unreadable": "UPDATE audit_link SET entry = entry || ' ' WHERE chain = 'act:test' AND seq = 2",
    "link_inconsistent": "UPDATE audit_link SET first_id = NULL, last_id = NULL WHERE chain = 'act:test' AND seq = 2",
    "covered_row_missing": "DELETE FROM adjustment WHERE verdict = 'rejected'",
    "covered_row_differs": "UPDATE decision SET score = 0.1 WHERE decision_id = $first",
    "covered_twice": """
        INSERT INTO audit_link SELECT 'act:eve', 1, entry, sha256(decode(repeat('00', 32), 'hex') || int8send(1)
            || convert_to(entry, 'UTF8')), marks, first_id, last_id
          FROM audit_link WHERE chain = 'act:test' AND seq = 1""",
    "not_in_chain": """
        INSERT INTO review_decision VALUES (999999, $open, 'escalate', 'eve', 'mine', now(), now())""",
}


def tamper(conn: Connection, statements: str) -> None:
    """Change history behind the ledger's back: with triggers and foreign keys off, as only a superuser can."""
    conn.execute(text("SET LOCAL session_replication_role = replica"))
    for statement in Template(statements).substitute(PLACES).split(";"):
        assert conn.execute(text(statement)).rowcount != 0, statement


def loosen(conn: Connection) -> None:
    """Drop every check constraint, so that tampering meets none."""
    named = text("SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0")
    for table, name in conn.execute(named).all():
        conn.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
