"""A keeper whose journal somebody else has locked: it stops sending, says so, and resumes."""

import sqlite3
from contextlib import closing

from tests.e2e.rig import Rig

NOTICED_S_MAX = 10.0
RESUMED_S_MAX = 20.0


def test_nothing_is_sent_while_the_journal_is_locked(rig: Rig) -> None:
    with rig.keeper() as keeper:
        keeper.until_ready()
        path = keeper.config.parent / "state" / "journal.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            account = rig.open_under()
            keeper.until(
                lambda: keeper.metric("keeper_held_total", reason="journal") >= 2, NOTICED_S_MAX
            )
            assert keeper.metric("keeper_journal_writable") == 0
            assert keeper.unready() == [
                "journal: cannot be written (database is locked); nothing is sent"
            ]
            seen = keeper.metric("keeper_head_block")
            keeper.until(lambda: keeper.metric("keeper_head_block") > seen + 3, NOTICED_S_MAX)
            assert keeper.healthy
            assert rig.nonce(keeper.wallet, "pending") == 0
            other.execute("ROLLBACK")

        keeper.until(lambda: rig.liquidated(account), RESUMED_S_MAX)
        keeper.until(
            lambda: keeper.metric("keeper_attempts_total", outcome="won") == 1, RESUMED_S_MAX
        )
        assert keeper.unready() == []
        keeper.stop()
    (row,) = keeper.journal()
    assert (row.outcome, row.account, row.nonce) == ("won", str(account), 0)
    assert "journal is written again: sending goes on" in keeper.run.stderr
