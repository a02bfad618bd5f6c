"""LatestWins against a list-based oracle, and its waiting."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from keeper.mailbox import LatestWins

TAKE = None  # in a sequence of operations: take instead of put


class Oracle:
    """Every put in a list; what a key's place and value are is worked out at the end."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, int]] = []

    def take(self) -> list[tuple[str, int]]:
        keys: list[str] = []
        for key, _ in self.puts:
            if key not in keys:
                keys.append(key)
        newest = [[value for k, value in self.puts if k == key][-1] for key in keys]
        self.puts.clear()
        return list(zip(keys, newest, strict=True))


@given(st.lists(st.one_of(st.just(TAKE), st.tuples(st.sampled_from("abcd"), st.integers()))))
def test_takes_the_newest_of_each_key_in_the_order_of_first_puts(
    operations: list[tuple[str, int] | None],
) -> None:
    box: LatestWins[str, int] = LatestWins()
    oracle = Oracle()
    for operation in [*operations, TAKE]:
        if operation is None:
            expected = oracle.take()
            assert len(box) == len(expected)
            assert list(box.take().items()) == expected
        else:
            box.put(*operation)
            oracle.puts.append(operation)
    assert len(box) == 0
    assert box.take() == {}


def test_what_was_taken_does_not_change_with_later_puts() -> None:
    box: LatestWins[str, int] = LatestWins()
    box.put("a", 1)
    taken = box.take()
    box.put("a", 2)
    assert taken == {"a": 1}


async def test_wait_ends_with_a_put_and_not_before() -> None:
    box: LatestWins[str, int] = LatestWins()
    events: list[str] = []

    async def consume() -> None:
        await box.wait()
        events.append(f"took {box.take()}")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(consume(), name="consumer")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        box.put("a", 1)
        box.put("a", 2)
        events.append("put")
    assert events == ["put", "took {'a': 2}"]


async def test_wait_waits_again_after_a_take() -> None:
    box: LatestWins[str, int] = LatestWins()
    box.put("a", 1)
    await box.wait()
    box.take()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(box.wait(), name="consumer")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        box.put("b", 2)


async def test_a_consumer_that_puts_back_lets_others_run() -> None:
    box: LatestWins[str, int] = LatestWins()
    box.put("held", 0)
    ended = asyncio.Event()

    async def consume() -> int:
        rounds = 0
        while not ended.is_set() and rounds < 1_000:
            await box.wait()
            rounds += 1
            for key, value in box.take().items():
                box.put(key, value)
        return rounds

    async def other() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        ended.set()

    async with asyncio.TaskGroup() as group:
        consumer = group.create_task(consume(), name="consumer")
        group.create_task(other(), name="other")
    assert consumer.result() < 10
