"""Events nominate, reads decide: what is dirty, and that nothing dirty is forgotten."""

import pytest
from msgspec.structs import replace

from keeper.coverage import Covered
from keeper.facts import AccountId, ChainUpdate, Log
from keeper.watch import intake as intake_module
from keeper.watch.intake import Intake
from tests.fakes import ManualClock
from tests.shell.market import ADDRESS, FakeChain, rival_liquidates, set_account, set_open
from tests.shell.rig import FakeFollower
from tests.shell.venue import FakeVenue

ALICE, BOB, CAROL = AccountId("alice"), AccountId("bob"), AccountId("carol")


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain(pull=False, now_ms=ManualClock().wall_ms)


@pytest.fixture
def intake(chain: FakeChain) -> Intake:
    fresh = Intake(FakeVenue(chain), 4)
    fresh.everything = False
    return fresh


def news(follower: FakeFollower, *, resync: bool = False) -> ChainUpdate:
    update = follower.since(resync=resync)
    assert update is not None
    return update


def hinted(number: int, account: AccountId = CAROL) -> Log:
    return Log(ADDRESS, ("touched", account), b"{}", number, "", "")


def test_a_hint_dirties_an_account_once_its_block_is_there(
    chain: FakeChain, intake: Intake
) -> None:
    follower = FakeFollower(chain)
    chain.mine(set_account(ALICE, 1))
    intake.post(news(follower))
    intake.fold()
    intake.take()
    number = chain.head.number
    for log in (hinted(number + 1), hinted(0, BOB), replace(hinted(1), address="0xdd")):
        intake.hint(log)
    intake.fold()
    assert intake.take() == [], "at the present head there is nothing to be seen yet"
    chain.mine()
    update = news(follower)
    covered = list(intake.covered)
    intake.post(update)
    intake.fold()
    assert sorted(intake.take()) == [BOB, CAROL]
    assert intake.hinted == 2
    assert intake.covered[len(covered) :] == [Covered(number + 1, number + 1, chain.head.hash)], (
        "what was read is what an update brought, whatever was hinted"
    )
    intake.fold()
    assert (intake.hinted, intake.take()) == (0, [])


def test_a_hint_that_the_blocks_own_logs_confirm_costs_nothing(
    chain: FakeChain, intake: Intake
) -> None:
    follower = FakeFollower(chain)
    chain.mine(set_account(ALICE, 1))
    intake.hint(hinted(chain.head.number, ALICE))
    intake.post(news(follower))
    intake.fold()
    assert (intake.take(), intake.hinted) == ([ALICE], 0)
    intake.hint(hinted(chain.head.number, ALICE))  # announced late
    intake.fold()
    assert (intake.take(), intake.hinted) == ([], 0)


def test_hints_beyond_the_limit_or_of_no_likely_block_do_no_harm(
    chain: FakeChain, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "HINTS_MAX", 2)
    intake.post(ChainUpdate(chain.head, ()))
    for account in (ALICE, BOB, CAROL):
        intake.hint(hinted(2**60, account))
    intake.fold()
    assert sorted(intake.take()) == [ALICE, BOB]
    assert intake._hints == []


def test_everything_is_read_first(chain: FakeChain) -> None:
    assert Intake(FakeVenue(chain), 4).everything


def test_a_touched_account_is_dirty_once_until_it_is_taken(
    chain: FakeChain, intake: Intake
) -> None:
    follower = FakeFollower(chain)
    chain.mine(set_account(BOB, 1), set_account(ALICE, 1), set_account(BOB, 2))
    intake.post(news(follower))
    assert intake.take() == [], "no venue code runs where the chain is followed"
    assert intake.fold() == []
    assert intake.take() == [BOB, ALICE]
    assert intake.take() == []
    assert not intake.everything


def test_an_account_touched_while_it_is_read_is_dirty_again(
    chain: FakeChain, intake: Intake
) -> None:
    follower = FakeFollower(chain)
    chain.mine(set_account(ALICE, 1))
    intake.post(news(follower))
    intake.fold()
    assert intake.take() == [ALICE]
    chain.mine(set_account(ALICE, 2))  # the reading is under way
    intake.post(news(follower))
    intake.fold()
    assert intake.take() == [ALICE]


def test_a_reorg_dirties_what_the_orphaned_blocks_touched(chain: FakeChain, intake: Intake) -> None:
    follower = FakeFollower(chain)
    for account in (ALICE, BOB, CAROL):
        chain.mine(set_account(account, 1))
        intake.post(news(follower))
    intake.fold()
    assert intake.take() == [ALICE, BOB, CAROL]
    first = chain.orphan(2)
    chain.mine()
    chain.mine()
    update = news(follower)
    assert update.reorged_from == first
    intake.post(update)
    intake.fold()
    assert intake.take() == [BOB, CAROL], "what the blocks before touched stands"
    assert not intake.everything


def test_blocks_deeper_than_a_reorg_can_be_are_forgotten(chain: FakeChain, intake: Intake) -> None:
    follower = FakeFollower(chain)
    for number in range(20):
        chain.mine(set_account(f"account{number}", 1))
        intake.post(news(follower))
        intake.fold()
    assert len(intake._touched_at) == 5


def test_a_changed_parameter_reads_everything(chain: FakeChain, intake: Intake) -> None:
    follower = FakeFollower(chain)
    chain.mine(set_open(is_open=True))
    intake.post(news(follower))
    intake.fold()
    assert intake.everything


def test_a_resync_reads_everything(chain: FakeChain, intake: Intake) -> None:
    follower = FakeFollower(chain)
    chain.mine()
    intake.post(news(follower, resync=True))
    intake.fold()
    assert intake.everything


def test_too_many_logs_are_dropped_and_everything_is_read(
    chain: FakeChain, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "LOGS_MAX", 3)
    follower = FakeFollower(chain)
    chain.mine(set_account(ALICE, 1), set_account(BOB, 1))
    intake.post(news(follower))
    within_limit = intake.everything
    chain.mine(set_account(CAROL, 1), set_account(CAROL, 2))
    intake.post(news(follower))
    assert (within_limit, intake.everything) == (False, True)
    assert intake.head == chain.head, "the head is kept: it is where everything is read"
    assert intake.fold() == []
    assert intake.take() == []
    chain.mine(set_account(ALICE, 3))
    intake.post(news(follower))
    intake.fold()
    assert intake.take() == [ALICE], "and counting starts anew"


def test_logs_of_other_contracts_are_not_ours(chain: FakeChain, intake: Intake) -> None:
    log = Log("0x" + "dd" * 20, ("touched", ALICE), b"{}", 101, "0x1", "0x2")
    intake.post(ChainUpdate(chain.head, (log, replace(log, address=ADDRESS, topics=("price",)))))
    intake.fold()
    assert intake.take() == []


def test_liquidations_are_told(chain: FakeChain, intake: Intake) -> None:
    follower = FakeFollower(chain)
    chain.mine(set_account(ALICE, -1_900, eth=1))
    intake.post(news(follower))
    assert intake.fold() == []
    chain.mine(set_account(BOB, 0), set_account(ALICE, -1_950, eth=1), rival_liquidates(ALICE))
    intake.post(news(follower))
    (seen,) = intake.fold()
    assert (seen.account, seen.block_number) == (ALICE, chain.head.number)
    assert seen.reward_wad == 20 * 10**18


async def test_wait_returns_each_head_once_and_again_on_retry(
    chain: FakeChain, intake: Intake
) -> None:
    intake.advance(chain.head)
    assert await intake.wait() == chain.head
    assert not intake._changed.is_set()
    intake.retry()
    assert await intake.wait() == chain.head
