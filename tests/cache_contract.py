"""The promises that every bounded store keeps; each store's test inherits them."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def eager_switching() -> Iterator[None]:
    """Switch threads every microsecond, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run_together(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Run `act(0)` to `act(count - 1)` in threads that start at one barrier; return results or raised exceptions."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        barrier.wait(timeout=30)
        try:
            results[index] = act(index)
        except BaseException as failure:  # noqa: BLE001 - what a thread raised is a result that the test judges
            results[index] = failure

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    with eager_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def lines_run(act: Callable[[], Any], file_name: str) -> int:
    """Count the lines of `file_name` that `act` executes: a measure of work without a stopwatch."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename.endswith(file_name):
            count += event == "line"
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


class CacheContract:
    """Inherit and give `make`; every store has the same map inside."""

    make: Callable[..., Any]

    @pytest.fixture
    def clock(self):
        return FakeClock()

    def cache(self, clock, **arguments):
        return type(self).make(timer=clock, **arguments)

    def test_the_defaults_are_a_thousand_items_for_an_hour(self):
        stats = type(self).make().get_stats()
        assert (stats["size"], stats["max_size"], stats["default_ttl"], stats["hit_ratio"]) == (
            0,
            1000,
            3600,
            0.0,
        )

    def test_what_was_put_is_returned_and_a_stranger_is_none(self, clock):
        cache = self.cache(clock)
        cache.put("key", ["value"])
        assert cache.get("key") == ["value"]
        assert cache.get("stranger") is None

    def test_a_second_put_replaces_the_first(self, clock):
        cache = self.cache(clock)
        cache.put("key", "old", ttl=5)
        cache.put("key", "new", ttl=50)
        clock.advance(10)
        assert cache.get("key") == "new"
        assert cache.size() == 1

    def test_the_least_recently_used_item_goes_first(self, clock):
        cache = self.cache(clock, max_size=3)
        for key in "abc":
            cache.put(key, key)
        cache.get("a")
        cache.put("d", "d")
        assert [key for key in "abcd" if cache.peek(key)] == ["a", "c", "d"]
        assert cache.get_stats()["evictions"] == 1

    def test_a_replaced_item_makes_no_other_item_leave(self, clock):
        cache = self.cache(clock, max_size=2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.put("a", 3)
        assert (cache.peek("a"), cache.peek("b")) == (3, 2)
        assert cache.get_stats()["evictions"] == 0

    def test_the_size_never_passes_its_bound(self, clock):
        cache = self.cache(clock, max_size=7)
        for number in range(100):
            cache.put(number, number)
            assert cache.size() <= 7
        assert cache.size() == 7

    def test_an_item_lives_until_its_time_and_not_a_moment_longer(self, clock):
        cache = self.cache(clock, default_ttl=60)
        cache.put("default", 1)
        cache.put("own", 1, ttl=10)
        clock.advance(9.5)
        assert cache.get("own") == 1
        clock.advance(0.5)
        assert cache.get("own") is None
        clock.advance(49.5)
        assert cache.get("default") == 1
        clock.advance(0.5)
        assert cache.get("default") is None
        assert cache.get_stats()["expirations"] == 2

    def test_reading_does_not_lengthen_a_life(self, clock):
        cache = self.cache(clock, default_ttl=10)
        cache.put("key", 1)
        for _ in range(5):
            clock.advance(2)
            cache.get("key")
        assert cache.get("key") is None

    def test_a_ttl_of_zero_keeps_nothing_and_drops_the_older_value(self, clock):
        cache = self.cache(clock)
        cache.put("key", "old")
        cache.put("key", "new", ttl=0)
        assert cache.get("key") is None
        assert cache.size() == 0

    def test_a_ttl_of_none_is_the_default(self, clock):
        cache = self.cache(clock, default_ttl=30)
        cache.put("key", 1, ttl=None)
        clock.advance(29)
        assert cache.get("key") == 1
        clock.advance(1)
        assert cache.get("key") is None

    def test_a_default_ttl_of_zero_keeps_nothing(self, clock):
        cache = self.cache(clock, default_ttl=0)
        cache.put("key", 1)
        assert cache.size() == 0

    def test_an_endless_ttl_ends_by_eviction_only(self, clock):
        cache = self.cache(clock, max_size=1)
        cache.put("key", 1, ttl=math.inf)
        clock.advance(1e9)
        assert cache.get("key") == 1

    def test_a_peek_counts_nothing_and_makes_nothing_younger(self, clock):
        cache = self.cache(clock, max_size=2)
        cache.put("a", 1)
        cache.put("b", 2)
        assert cache.peek("a") == 1
        assert cache.peek("stranger") is None
        cache.put("c", 3)
        assert cache.peek("a") is None
        assert (cache.get_stats()["hits"], cache.get_stats()["misses"]) == (0, 0)

    def test_delete_tells_whether_there_was_something(self, clock):
        cache = self.cache(clock)
        cache.put("key", 1)
        cache.put("late", 1, ttl=1)
        clock.advance(1)
        assert cache.delete("key") is True
        assert cache.delete("key") is False
        assert cache.delete("late") is False
        assert cache.get("key") is None

    def test_clear_empties_the_store_and_keeps_the_counts(self, clock):
        cache = self.cache(clock)
        cache.put("key", 1)
        cache.get("key")
        cache.clear()
        assert cache.size() == 0
        assert cache.get("key") is None
        assert (cache.get_stats()["hits"], cache.get_stats()["misses"]) == (1, 1)
        assert cache.get_stats()["bytes"] == 0

    def test_hits_and_misses_add_up_to_gets(self, clock):
        cache = self.cache(clock)
        cache.put("key", 1, ttl=5)
        for key in ("key", "key", "stranger", "key"):
            cache.get(key)
        clock.advance(5)
        cache.get("key")
        stats = cache.get_stats()
        assert (stats["hits"], stats["misses"], stats["hit_ratio"]) == (3, 2, 0.6)

    def test_a_cached_none_is_a_hit(self, clock):
        cache = self.cache(clock)
        cache.put(None, None)
        assert cache.get(None) is None
        assert cache.get_stats()["hits"] == 1

    @pytest.mark.parametrize("wrong", [0, -1, math.nan])
    def test_a_store_for_nothing_is_refused_with_the_name_of_the_argument(self, wrong):
        with pytest.raises(ValueError, match="max_size must be 1 or more"):
            type(self).make(max_size=wrong)

    @pytest.mark.parametrize("wrong", [-1, -0.001, math.nan])
    def test_a_time_that_cannot_be_is_refused_and_changes_nothing(self, clock, wrong):
        with pytest.raises(ValueError, match="default_ttl must be zero or more seconds"):
            type(self).make(default_ttl=wrong)
        cache = self.cache(clock)
        cache.put("key", "old")
        with pytest.raises(ValueError, match="ttl must be zero or more seconds"):
            cache.put("key", "new", ttl=wrong)
        assert cache.get("key") == "old"

    def test_a_jump_of_the_wall_clock_changes_nothing(self, monkeypatch):
        cache = type(self).make()
        cache.put("key", 1, ttl=600)
        for jump in (3600, -3600):
            moment = time.time() + jump
            with monkeypatch.context() as jumped:
                jumped.setattr(time, "time", lambda moment=moment: moment)
                jumped.setattr(time, "time_ns", lambda moment=moment: int(moment * 1e9))
                assert cache.get("key") == 1

    def test_the_work_of_an_operation_does_not_grow_with_the_store(self, clock):
        def work(size: int) -> list[int]:
            cache = self.cache(clock, max_size=size)
            for number in range(size):
                cache.put(number, number, ttl=1)
            clock.advance(1)
            acts = [
                lambda: cache.get(0),
                lambda: cache.put("new", 1),
                lambda: cache.put("newer", 1),
                lambda: cache.get("new"),
                lambda: cache.delete("new"),
                cache.size,
                cache.get_stats,
            ]
            return [lines_run(act, "lru_cache.py") for act in acts]

        assert work(10) == work(3000)

    def test_threads_break_no_bound_and_lose_no_count(self, clock):
        cache = self.cache(clock, max_size=16)

        def act(index: int) -> int:
            for step in range(400):
                key = (index * 7 + step * 3) % 40
                cache.put(key, key)
                assert cache.get(key) in (key, None)
                assert cache.size() <= 16
                if step % 10 == 0:
                    cache.delete(key)
            return 400

        gets = sum(run_together(8, act))
        stats = cache.get_stats()
        assert stats["hits"] + stats["misses"] == gets
        assert stats["size"] == cache.size() <= 16


class ByteBoundContract:
    """For stores with a byte bound beside the entry bound; `sizeof` is the length of the value here."""

    make: Callable[..., Any]

    def cache(self, **arguments):
        return type(self).make(timer=FakeClock(), sizeof=len, **arguments)

    def test_the_bytes_never_pass_their_bound(self):
        cache = self.cache(max_bytes=10)
        for key, value in enumerate(["aaaa", "bbbb", "cccc", "d", "eeeeeeeeee", "f"]):
            cache.put(key, value)
            assert cache.get_stats()["bytes"] <= 10
        assert cache.size() == 1

    def test_a_large_item_takes_the_place_of_the_oldest_ones_only(self):
        cache = self.cache(max_bytes=10)
        for key in ("aaa", "bbb", "ccc"):
            cache.put(key, key)
        cache.put("dddd", "dddd")
        assert [key for key in ("aaa", "bbb", "ccc", "dddd") if cache.peek(key)] == ["bbb", "ccc", "dddd"]
        assert cache.get_stats()["bytes"] == 10

    def test_an_item_larger_than_the_bound_is_not_kept_and_pushes_nobody_out(self):
        cache = self.cache(max_bytes=10)
        cache.put("small", "1234")
        cache.put("large", "x" * 11)
        assert cache.peek("large") is None
        assert cache.peek("small") == "1234"

    def test_an_item_that_has_grown_too_large_does_not_leave_its_old_value_behind(self):
        cache = self.cache(max_bytes=10)
        cache.put("key", "1234")
        cache.put("key", "x" * 11)
        assert cache.peek("key") is None
        assert cache.get_stats()["bytes"] == 0

    def test_a_bound_of_no_bytes_is_refused(self):
        with pytest.raises(ValueError, match="max_bytes must be 1 or more"):
            self.cache(max_bytes=0)
