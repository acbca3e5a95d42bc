"""One workload through one platform process: what its headers add up to, and what the upstream's journal says."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from queue import SimpleQueue
from typing import NamedTuple

from benchmarks.children import platform
from benchmarks.rounds import progress
from benchmarks.workload import Ask, Moment
from prices import PriceBook
from tasks import Usage
from tests.upstream import Call, UpstreamProcess

LATENCY_SECONDS = 0.01  # so that a crowd has a flight to wait for
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """The sums of one replay. Money is in nano-dollars; `asks` are the different ones.

    `paid`, `saved` and `overall` are what the headers say; `billed` and `discount` (what the provider's own prompt cache
    took off) what the journal says; `alone` is what these requests cost by the journal if each is a call of its own.
    """

    requests: int
    asks: int
    statuses: dict[str, int]
    calls: int
    paid_nano: int
    saved_nano: int
    overall_nano: int
    billed_nano: int
    discount_nano: int
    alone_nano: int

    @property
    def exact(self) -> bool:
        """Headers, running total and journal are equal; and what is said to be saved is just what was not paid."""
        paid = self.paid_nano == self.overall_nano == self.billed_nano
        return paid and self.paid_nano + self.saved_nano == self.alone_nano

    @property
    def reduction(self) -> Decimal:
        """In per cent, from what was paid and not from what is said to be saved."""
        return Decimal(100 * (self.alone_nano - self.paid_nano)) / self.alone_nano


class Price(NamedTuple):
    """What a provider bills for one call, and what its own prompt cache took off that, in nano-dollars."""

    nano: int
    discount_nano: int


def replay(moments: Sequence[Moment], upstream: UpstreamProcess, entries: int, cache: bool = True) -> Run:
    """The moments, one after the other, through a new platform with an empty ledger and an empty cache.

    Without the cache every ask says `no-store`: it neither reads nor writes, nor waits for another's call.
    """
    upstream.control(reset=True, latency=LATENCY_SECONDS)
    live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream.url, "CACHE_MAX_SIZE": str(entries)}
    most = max(len(moment.asks) for moment in moments)
    with (
        tempfile.TemporaryDirectory() as own,
        platform(own, DATA_DIR=own, **live) as server,
        callers(server.port(), most) as send,
    ):
        replies = [reply for moment in told(moments) for reply in send(moment.asks, _control(moment, cache))]
    asked = [ask.text for moment in moments for ask in moment.asks]
    return sums(asked, replies, upstream.journal())


def told(moments: Sequence[Moment]) -> Iterator[Moment]:
    """The same moments, with a word at each quarter of the way to whoever waits."""
    for number, moment in enumerate(moments):
        if number and number % max(1, len(moments) // 4) == 0:
            progress(f"  {100 * number // len(moments)} %")
        yield moment


def _control(moment: Moment, cache: bool) -> str:
    if not cache:
        return "no-store"
    return "no-cache" if moment.fresh else ""


@contextmanager
def callers(port: int, most: int) -> Iterator[Callable[[Sequence[Ask], str], list[Headers]]]:
    """A function that sends asks all at once and gives the headers of their replies."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(most)]
    idle: SimpleQueue[http.client.HTTPConnection] = SimpleQueue()
    for connection in connections:
        idle.put(connection)

    def send(ask: Ask, control: str) -> Headers:
        connection = idle.get()
        try:
            return post(connection, ask, control)
        finally:
            idle.put(connection)

    try:
        with ThreadPoolExecutor(most) as pool:
            yield lambda asks, control: list(pool.map(send, asks, [control] * len(asks)))
    finally:
        for connection in connections:
            connection.close()


def post(connection: http.client.HTTPConnection, ask: Ask, control: str) -> Headers:
    headers = {"Content-Type": "application/json"} | ({"Cache-Control": control} if control else {})
    connection.request("POST", ask.path, json.dumps(ask.body), headers)
    reply = connection.getresponse()
    body = reply.read()
    if reply.status != 200:
        raise ValueError(f"The platform answered {reply.status}: {body.decode()}")
    return dict(reply.headers)


def sums(asked: Sequence[str], replies: Sequence[Headers], journal: Sequence[Call]) -> Run:
    prices = [(call.prompt, price(call)) for call in journal]
    by_ask = dict(prices)
    if any(by_ask[prompt] != paid for prompt, paid in prices):
        raise ValueError("The upstream has billed one ask at two prices: nothing can be compared.")
    return Run(
        requests=len(replies),
        asks=len(set(asked)),
        statuses=dict(Counter(reply["X-Cache-Status"] for reply in replies)),
        calls=len(journal),
        paid_nano=sum(nano(reply, "Total") for reply in replies),
        saved_nano=sum(nano(reply, "Saved") for reply in replies),
        overall_nano=max(nano(reply, "Overall") for reply in replies),
        billed_nano=sum(paid.nano for _, paid in prices),
        discount_nano=sum(paid.discount_nano for _, paid in prices),
        alone_nano=sum(by_ask[text].nano for text in asked),
    )


def nano(reply: Headers, part: str) -> int:
    return int(Decimal(reply[f"X-Cost-{part}"]).scaleb(9))


def price(call: Call) -> Price:
    """Today's rates times what the journal counts, multiplied here by hand."""
    if call.billed is None:
        raise ValueError(f"The upstream did not answer call {call.number}: {call.fault}.")
    tokens = call.billed
    listed = _book.cost("gemini", call.model, Usage(tokens.prompt, 1), datetime.now(UTC))
    if listed is None:
        raise ValueError(f"The price book has no price for {call.model}.")
    rates = listed.rates
    asked = (tokens.prompt - tokens.cached) * rates.input_nano + tokens.cached * rates.cached_nano
    answered = (tokens.candidates + tokens.thoughts) * rates.output_nano
    return Price(
        round(asked) + round(answered), round(tokens.cached * (rates.input_nano - rates.cached_nano))
    )


_book = PriceBook()
