"""The ledger against plain sets of blocks, and a file that is damaged."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.chain.ledger import Ledger, LedgerError
from keeper.coverage import Covered, holes
from keeper.facts import AccountId

SCOPE = "demo@0x1"
DEPTH = 8


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with Ledger(tmp_path / "ledger.sqlite", DEPTH) as opened:
        yield opened


def span(first: int, last: int) -> Covered:
    return Covered(first, last, f"{last:#x}")


@pytest.mark.parametrize("seed", range(20))
async def test_gaps_are_exactly_the_blocks_that_were_not_read(seed: int, ledger: Ledger) -> None:
    luck, read = random.Random(seed), set[int]()  # noqa: S311 - a seed, not a secret
    for _ in range(40):
        if luck.random() < 0.2:
            block = luck.randrange(200)
            await ledger.cut(SCOPE, block)
            left = {
                n for one in await ledger.covered(SCOPE) for n in range(one.first, one.last + 1)
            }
            assert left <= read
            assert max(left, default=-1) < block
            read = left
        else:
            first = luck.randrange(200)
            last = first + luck.randrange(30)
            await ledger.cover(SCOPE, [span(first, last)], {})
            read |= set(range(first, last + 1))
        gaps = await ledger.gaps(SCOPE, 5, 180)
        assert [block for gap in gaps for block in gap] == sorted(set(range(5, 181)) - read)
        assert all(gaps)


@pytest.mark.parametrize("seed", range(20))
async def test_an_account_is_known_as_long_as_a_block_that_touched_it_counts_as_read(
    seed: int, ledger: Ledger
) -> None:
    luck = random.Random(seed)  # noqa: S311 - a seed, not a secret
    touched_in = [AccountId(str(luck.randrange(40))) for _ in range(120)]
    for _ in range(60):
        if luck.random() < 0.2:
            await ledger.cut(SCOPE, luck.randrange(100))
        else:
            first = luck.randrange(100)
            ranges = [span(first, first + luck.randrange(5))]
            if luck.random() < 0.5:
                ranges.append(span(ranges[0].last + 1, ranges[0].last + 3))
            blocks = range(first, ranges[-1].last + 1)
            await ledger.cover(SCOPE, ranges, {touched_in[block]: block for block in blocks})
        unread = {block for gap in await ledger.gaps(SCOPE, 0, 119) for block in gap}
        expected = {account for block, account in enumerate(touched_in) if block not in unread}
        assert expected <= set(await ledger.known(SCOPE))


async def test_old_neighbours_are_merged_and_new_ones_keep_their_hashes(ledger: Ledger) -> None:
    await ledger.cover(SCOPE, [span(0, 99)], {})
    for block in range(100, 150):
        await ledger.cover(SCOPE, [span(block, block)], {})
    ranges = await ledger.covered(SCOPE)
    assert ranges[0] == span(0, 149 - DEPTH)
    assert ranges[1:] == [span(block, block) for block in range(150 - DEPTH, 150)]


async def test_what_was_touched_since_a_block(ledger: Ledger) -> None:
    alice, bob = AccountId("alice"), AccountId("bob")
    await ledger.cover(SCOPE, [span(1, 9)], {alice: 3, bob: 8})
    await ledger.cover(SCOPE, [span(10, 12)], {alice: 11})
    assert await ledger.touched_since(SCOPE, 8) == [alice]
    assert await ledger.touched_since(SCOPE, 11) == []
    assert sorted(await ledger.known(SCOPE)) == [alice, bob]
    await ledger.cover(SCOPE, [span(13, 13)], {}, everything=13)
    assert sorted(await ledger.touched_since(SCOPE, 12)) == [alice, bob]
    assert await ledger.touched_since(SCOPE, 13) == []


async def test_a_reorg_is_cut_and_read_again_in_one_step(ledger: Ledger) -> None:
    await ledger.cover(SCOPE, [span(1, 5), span(6, 6)], {})
    await ledger.cover(SCOPE, [Covered(6, 7, "0xother")], {}, cut_from=6)
    assert await ledger.covered(SCOPE) == [span(1, 5), Covered(6, 7, "0xother")]


def test_holes_at_the_ends_and_between() -> None:
    assert holes([], 3, 5) == [range(3, 6)]
    assert holes([span(0, 9)], 3, 5) == []
    assert holes([span(7, 8), span(2, 3)], 0, 9) == [range(2), range(4, 7), range(9, 10)]
    assert holes([span(20, 30)], 0, 9) == [range(10)]


@pytest.mark.parametrize("damage", ["not a database", "torn", "another version"])
async def test_a_damaged_file_is_refused_said_and_rebuilt(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.sqlite"
    async with Ledger(path, DEPTH) as ledger:
        many = {AccountId(str(n)): 5 for n in range(2_000)}
        await ledger.cover(SCOPE, [span(0, 5)], many)
        if damage == "another version":
            await ledger._run(lambda: ledger._open_db.execute("PRAGMA user_version = 99"))
    body = path.read_bytes()
    if damage == "not a database":
        path.write_bytes(b"junk" * 1_000)
    elif damage == "torn":
        path.write_bytes(body[: len(body) // 2])
    with capture_logs() as lines:
        async with Ledger(path, DEPTH) as ledger:
            assert await ledger.covered(SCOPE) == []
            await ledger.cover(SCOPE, [span(0, 5)], {})
    (said,) = [line for line in lines if line["log_level"] == "error"]
    assert said["event"] == "ledger refused: reading all logs again"
    assert path.with_suffix(".damaged").exists()


async def test_a_ledger_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        async with Ledger(tmp_path / "ledger.sqlite", DEPTH):
            pass


async def test_a_full_disk_leaves_a_gap_and_ends_nothing(ledger: Ledger) -> None:
    def limit(pages: int) -> None:
        ledger._open_db.execute(f"PRAGMA max_page_count = {pages}")

    await ledger._run(lambda: limit(8))
    many = {AccountId("x" * 900 + str(n)): 5 for n in range(100)}
    with capture_logs() as lines:
        for _ in range(2):
            assert not await ledger.cover(SCOPE, [span(0, 5)], many)
    assert [line["log_level"] for line in lines] == ["warning"], "said once"
    assert await ledger.gaps(SCOPE, 0, 5) == [range(6)], "nothing by halves"
    await ledger._run(lambda: limit(10_000))
    assert await ledger.cover(SCOPE, [span(0, 5)], many)
    assert await ledger.gaps(SCOPE, 0, 5) == []
