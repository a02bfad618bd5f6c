"""Who is first among many that come and go."""

from hypothesis import given
from hypothesis import strategies as st

from keeper.decide.rank import SPARE, Ranking


def taken(ranking: Ranking[str]) -> list[str]:
    return [ranking.pop() for _ in range(len(ranking))]


def test_the_lowest_rank_first_and_of_equals_who_came_first() -> None:
    ranking: Ranking[str] = Ranking()
    for key, rank in (("b", 2), ("d", 3), ("a", 1), ("c", 2)):
        ranking.put(key, (rank, 0))
    assert "c" in ranking
    assert taken(ranking) == ["a", "b", "c", "d"]
    assert "c" not in ranking


def test_a_key_has_the_newest_of_its_ranks() -> None:
    ranking: Ranking[str] = Ranking()
    ranking.put("a", 1.0)
    ranking.put("b", 2.0)
    ranking.put("a", 3.0)
    ranking.put("c", 4.0)
    ranking.drop("c")
    ranking.drop("stranger")
    assert taken(ranking) == ["b", "a"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3) | st.none()), max_size=200))
def test_it_is_a_dict_sorted_by_value(changes: list[tuple[int, int | None]]) -> None:
    ranking: Ranking[int] = Ranking()
    expected: dict[int, int] = {}
    for key, rank in changes:
        expected.pop(key, None)  # put anew, it stands behind its equals
        if rank is None:
            ranking.drop(key)
        else:
            ranking.put(key, rank)
            expected[key] = rank
        assert len(ranking) == len(expected)
    found = [ranking.pop() for _ in range(len(ranking))]
    assert found == sorted(expected, key=expected.__getitem__)


def test_ranks_that_change_all_the_time_take_no_more_room() -> None:
    ranking: Ranking[str] = Ranking()
    for rank in range(1_000):
        for key in "abc":
            ranking.put(key, rank)
    assert len(ranking._entries) <= 2 * 3 + SPARE
