"""store/waiting.py: seats of a waiting room, and who hears that something was given back."""

from __future__ import annotations

from contextlib import ExitStack

from store.waiting import WaitingRoom


def test_seats_are_bound_in_all_and_of_one_budget_and_are_free_again():
    room = WaitingRoom(3, 2)
    for _ in range(2):
        with ExitStack() as seats:
            taken = [seats.enter_context(room.seat(scope)) for scope in ("a", "a", "a", "b", "c")]
            assert [news is not None for news in taken] == [True, True, False, True, False]
            assert room.taken == 3
        assert room.taken == 0


def test_everybody_who_waits_for_a_budget_is_told_and_nobody_else():
    room = WaitingRoom(4, 4)
    with ExitStack() as seats:
        mine = [seats.enter_context(room.seat("a")) for _ in range(3)]
        other = seats.enter_context(room.seat("b"))
        room.tell(["a", "nobody's"])
        assert all(news.is_set() for news in mine)
        assert not other.is_set()


def test_who_leaves_is_told_no_more_and_leaves_the_others_where_they_are():
    room = WaitingRoom(4, 4)
    with room.seat("a") as stays:
        with room.seat("a") as leaves:
            pass
        room.tell(["a"])
        assert stays.is_set()
        assert not leaves.is_set()
