"""N identical asks in the air make one call: one leads and pays, the others wait for its landing."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Landing(NamedTuple, Generic[T]):
    """What a flight brought; `coalesced` is False for the one who made the call. The value is shared, not copied."""

    value: T
    coalesced: bool


class FlightTimeout(Exception):
    """No landing came before the follower's own deadline, or the leading call was broken off."""


class SharedFailure(Exception):
    """Somebody else's call failed, and its failure answers this ask too: no call was made, nothing is to be paid.

    `cause` is this follower's own copy of the failure without its traceback, so it may be raised again.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__("The call that this ask waited for has failed; its cause says why.")
        self.cause = cause


class _Flight:
    """One call in the air; `seat_free` says that the first leader failed and a follower may fly once more."""

    def __init__(self, lock: threading.Lock) -> None:
        self.news = threading.Condition(lock)
        self.waiting = 0
        self.second = self.seat_free = self.landed = False
        self.value: Any = None
        self.failure: Exception | None = None


class SingleFlight:
    """Joins identical asks by key; a key is known only while its call is in the air."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    def fly(self, key: Hashable, call: Callable[[], T], deadline: float) -> Landing[T]:
        """Lead with `call()`, or wait until `deadline` (a moment of the timer) for the one who does.

        The leader gets what its own call raised. If that has a true `retryable`, or broke the leader off
        (KeyboardInterrupt, SystemExit), one follower makes one further call; there is never a third. The others
        raise SharedFailure, and FlightTimeout at their deadline. `call` should look into the cache first: an ask
        that missed it just before a landing starts a new flight.
        """
        with self._lock:
            flight = self._flights.get(key)
            if leads := flight is None:
                flight = self._flights[key] = _Flight(self._lock)
            else:
                leads = self._board(key, flight, deadline)
        if leads:
            return Landing(self._lead(key, flight, call), coalesced=False)
        return Landing(_landed_value(flight), coalesced=True)

    def in_air(self) -> int:
        """Return the number of calls in the air."""
        return len(self._flights)

    def waiting(self) -> int:
        """Return the number of followers that wait for them."""
        with self._lock:
            return sum(flight.waiting for flight in self._flights.values())

    def _board(self, key: Hashable, flight: _Flight, deadline: float) -> bool:
        """Wait, the lock released; True when the caller takes the free seat and must lead. Holds the lock."""
        takes_seat = False
        flight.waiting += 1
        try:
            patience = min(max(0.0, deadline - self._timer()), threading.TIMEOUT_MAX)
            flight.news.wait_for(lambda: flight.landed or flight.seat_free, patience)
            takes_seat = flight.seat_free and self._timer() < deadline
            if not (takes_seat or flight.landed):
                raise FlightTimeout("No answer came in time; ask again.")
        finally:
            flight.waiting -= 1
            if takes_seat:
                flight.seat_free = False
            elif flight.seat_free and not flight.waiting:
                self._flights.pop(key, None)  # Nobody is left to take the seat.
        return takes_seat

    def _lead(self, key: Hashable, flight: _Flight, call: Callable[[], T]) -> T:
        try:
            value = call()
            self._land(key, flight, value)
        except BaseException as failure:
            self._fail(key, flight, failure)
            raise
        return value

    def _land(self, key: Hashable, flight: _Flight, value: Any) -> None:
        with self._lock:
            self._flights.pop(key, None)
            flight.value, flight.landed = value, True
            flight.news.notify_all()

    def _fail(self, key: Hashable, flight: _Flight, failure: BaseException) -> None:
        with self._lock:
            if flight.landed:  # Broken off after the landing: the followers have their value.
                return
            if flight.waiting and not flight.second and _may_fly_again(failure):
                flight.second = flight.seat_free = True
            else:
                self._flights.pop(key, None)
                # A copy, since the failure's traceback leads back to this flight and would keep both alive.
                flight.failure, flight.landed = _own_copy(failure), True
            # All of them: a single note could go to a follower that gives up at this very moment.
            flight.news.notify_all()


def _landed_value(flight: _Flight) -> Any:
    failure = flight.failure
    if failure is None:
        return flight.value
    if isinstance(failure, FlightTimeout):
        raise FlightTimeout(*failure.args)
    raise SharedFailure(_own_copy(failure))


def _may_fly_again(failure: BaseException) -> bool:
    return not isinstance(failure, Exception) or bool(getattr(failure, "retryable", False))


def _own_copy(failure: BaseException) -> Exception:
    """Return a second object of the same kind without traceback or context.

    One object raised by many threads would grow and mix their tracebacks. The constructor is not called, because
    its arguments are not known; a kind that cannot be made without it is shared as it is.
    """
    if not isinstance(failure, Exception):
        return FlightTimeout("The call that this ask waited for was broken off; ask again.")
    try:
        twin = type(failure).__new__(type(failure), *failure.args)
    except TypeError:
        return failure
    twin.__dict__.update(failure.__dict__)
    return twin
