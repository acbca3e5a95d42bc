"""What every adapter promises of a reply that comes piece by piece, beside the contract of plain calls."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from errors import DeadlineExceeded, EmptyReply, InvalidReply, UpstreamFault
from providers.base import Call, Piece, Reply
from providers.reply_facts import MOST_TOKENS
from tasks import Usage
from tests.cache_contract import run_together
from tests.provider_contract import BILLED, FAULTS, LATE, PATIENCE, SHORT, usage_of
from tests.readers import LONG
from tests.upstream import CANARY, Fault, Tokens, Upstream
from tests.watches import SinceAsked, Watch

Streaming = Generator[Piece, None, Reply]

# As a stream's fault comes before its first piece: class, transient, unknown.
STREAM_FAULTS = FAULTS | {
    "stream_error": (UpstreamFault, True, False),
    "stream_garbage": (InvalidReply, True, True),
    "stream_stops": (InvalidReply, True, True),
}
# They can strike in the middle.
INSIDE = ("cut_body", "half_close", "reset_body", "stream_error", "stream_garbage", "stream_stops")
# A stream that nobody can read looks like one that has said nothing.
SAYS_NOTHING = [
    "",
    "null",
    "data: null\n\n",
    "data: []\n\n",
    "data: 5\n\n",
    "data: {}\n\n",
    ": only a comment\n\n",
]


def listen(streaming: Streaming) -> tuple[list[Piece], Reply]:
    """All of a stream that ends well."""
    pieces = []
    while True:
        try:
            pieces.append(next(streaming))
        except StopIteration as end:
            return pieces, end.value


def broken(streaming: Streaming) -> tuple[list[Piece], UpstreamFault]:
    """All of a stream that does not."""
    pieces: list[Piece] = []
    with pytest.raises(UpstreamFault) as failure:
        pieces.extend(streaming)
    return pieces, failure.value


class StreamContract:
    """Inherited beside ProviderContract, which says how a provider is made and asked."""

    name: str
    model: str
    own_faults: ClassVar[dict[str, tuple[type[UpstreamFault], bool, bool]]]
    unbilled: frozenset[str]
    # Counts that come before the end: none, or the output's is a first one only, or all so far.
    counts_early = False
    counts_on_the_way = False

    provider: Any
    call_of: Any

    def started(self, upstream: Upstream, *faults: str | Fault, **options: Any) -> Streaming:
        provider = self.provider(upstream, timer=SinceAsked(upstream))
        provider.warm()
        upstream.script(*faults)
        return provider.stream(self.call_of(**options))

    def pool(self, provider: Any) -> list[Any]:
        return provider._line.open()[1]._pool.connections

    # What comes.

    def test_the_pieces_make_up_what_a_plain_call_brings(self, upstream):
        """Over prompts some of which are partly cached, and some take thought."""
        provider = self.provider(upstream)
        for number in range(12):
            call = self.call_of(f"Prompt {number}.")
            pieces, reply = listen(provider.stream(call))
            assert reply == provider.call(call)
            assert "".join(piece.text for piece in pieces) == reply.text
            assert len(pieces) > 1
            assert all(piece.text for piece in pieces)
            assert {piece.model for piece in pieces} == {self.model}
        assert {call.method for call in upstream.journal} == {"stream", "generate"}

    def test_a_trailing_line_break_comes_with_the_pieces_and_the_reply(self, upstream):
        pieces, reply = listen(self.started(upstream, Fault("says", text="One.\n\nTwo.\n")))
        assert "".join(piece.text for piece in pieces) == reply.text == "One.\n\nTwo.\n"

    def test_events_may_come_in_parts_of_any_size(self, upstream):
        """Cut in the middle of a word, of a character, and of a line's end."""
        provider, text = self.provider(upstream), "Café, 日本語, \U0001f642!\n" * 4
        came = []
        for bite in (0, 1, 2, 3, *range(5, 400, 17)):
            upstream.script(Fault("says", text=text, bite=bite))
            pieces, reply = listen(provider.stream(self.call_of()))
            came.append(([piece.text for piece in pieces], reply))
        assert came[0][1].text == text
        assert came == came[:1] * len(came)

    def test_the_first_piece_is_there_before_the_last_is_written(self, upstream):
        streaming = self.started(upstream, Fault("ok", pause=60.0))
        assert next(streaming).text
        assert upstream.in_flight == 1
        streaming.close()

    def test_pieces_name_the_model_that_serves_and_say_what_it_does_not_take(self, upstream):
        pieces, reply = listen(self.started(upstream, Fault("ok", model="served-by-this")))
        assert {piece.model for piece in pieces} == {reply.model} == {"served-by-this"}
        assert {piece.ignored for piece in pieces} == {reply.ignored} == {()}

    def test_a_cut_text_is_not_a_whole_one(self, upstream):
        _, reply = listen(self.started(upstream, "max_tokens"))
        assert reply.text
        assert not reply.whole

    # Counts.

    def test_the_last_counts_are_exact(self, upstream):
        tokens = Tokens(prompt=1000, cached=300, candidates=40, thoughts=9)
        _, reply = listen(self.started(upstream, Fault("ok", usage=tokens)))
        assert reply.usage == Usage(1000, 49, 300, 9)

    def test_pieces_have_the_counts_that_the_provider_tells_on_the_way(self, upstream):
        tokens = Tokens(prompt=1000, cached=300, candidates=40, thoughts=0)
        pieces, _ = listen(self.started(upstream, Fault("ok", usage=tokens, pause=0.05)))
        first = pieces[0].usage
        if self.counts_on_the_way:
            assert [piece.usage for piece in pieces] == [Usage(1000, part, 300) for part in (10, 20, 30, 40)]
        elif self.counts_early:
            assert first == Usage(1000, 1, 300, estimated=True)
        else:
            assert first is None

    def test_where_the_provider_counts_nothing_there_is_no_usage(self, upstream):
        pieces, reply = listen(self.started(upstream, "no_usage"))
        assert reply.usage is None
        assert {piece.usage for piece in pieces} == {None}

    def test_a_count_that_makes_no_sense_never_becomes_money(self, upstream):
        _, reply = listen(self.started(upstream, Fault("ok", usage=Tokens(MOST_TOKENS + 1, 0, 5))))
        assert reply.usage is None

    # Faults.

    @pytest.mark.parametrize("name", sorted(STREAM_FAULTS))
    def test_before_the_first_piece_a_fault_is_that_of_a_plain_call(self, upstream, name):
        kind, transient, unknown = self.own_faults.get(name, STREAM_FAULTS[name])
        seconds = 0.05 if name == "drip" else None
        told = Fault(name, seconds=seconds, after=0 if name in INSIDE else None)
        pieces, fault = broken(self.started(upstream, told, seconds=PATIENCE.get(name, 5.0)))
        assert (pieces, type(fault)) == ([], kind)
        assert (fault.transient, fault.unknown) == (transient, unknown)
        assert CANARY not in str(fault) + fault.detail

    @pytest.mark.parametrize("name", INSIDE)
    def test_a_fault_in_the_middle_is_of_the_same_kind_and_the_pieces_before_it_came(self, upstream, name):
        streaming = self.started(upstream, Fault(name, after=2, usage=Tokens(1000, 300, 40)))
        pieces, fault = broken(streaming)
        kind, transient, unknown = STREAM_FAULTS[name]
        assert len(pieces) == 2
        assert (type(fault), fault.transient) == (kind, transient)
        if self.counts_on_the_way:
            assert (fault.usage, fault.unknown) == (Usage(1000, 20, 300), False)
        elif self.counts_early and name == "stream_error":  # it says itself that it works no more
            assert (fault.usage, fault.unknown) == (Usage(1000, 1, 300, estimated=True), False)
        else:
            assert (fault.usage, fault.unknown) == (None, unknown)

    @pytest.mark.parametrize("name", sorted(BILLED))
    def test_what_was_billed_without_an_answer_is_on_the_fault(self, upstream, name):
        usage = Tokens(prompt=40, cached=8, thoughts=5 if name == "empty" else 0)
        _, fault = broken(self.started(upstream, Fault(name, usage=usage, model="served-by-this")))
        if name in self.unbilled:
            assert (fault.usage, fault.unknown) == (None, False)
        else:
            assert (fault.usage, fault.model, fault.unknown) == (usage_of(usage), "served-by-this", False)

    @pytest.mark.parametrize("text", SAYS_NOTHING)
    def test_a_stream_that_says_nothing_is_a_fault(self, upstream, text):
        pieces, fault = broken(self.started(upstream, Fault("garbage", text=text)))
        assert pieces == []
        assert isinstance(fault, InvalidReply | EmptyReply)
        assert (fault.usage, fault.unknown) == (None, True)

    # Time.

    def test_a_dripping_stream_ends_with_its_time_in_all(self, upstream):
        streaming = self.started(upstream, Fault("drip", seconds=0.05), seconds=SHORT)
        began = time.monotonic()
        assert isinstance(broken(streaming)[1], DeadlineExceeded)
        assert SHORT * 0.9 < time.monotonic() - began < SHORT + LATE

    def slow(
        self, upstream: Upstream, pause: float, grace: float, seconds: float = LONG
    ) -> tuple[Streaming, Watch]:
        """A stream with its first piece read, and the timer of its time, which stands."""
        watch = Watch()
        provider = self.provider(upstream, timer=watch)
        provider.warm()
        upstream.script(Fault("ok", pause=pause))
        call: Call = replace(self.call_of(seconds=seconds), grace=grace)
        streaming = provider.stream(call)
        assert next(streaming).text
        return streaming, watch

    def test_a_stream_that_has_begun_gets_its_grace(self, upstream):
        streaming, watch = self.slow(upstream, 0.05, grace=2 * LONG)
        watch.moment = LONG + 1.0
        assert listen(streaming)[1].whole

    @pytest.mark.parametrize("grace", [0.0, 5.0])
    def test_a_stream_ends_with_its_time_and_its_grace(self, upstream, grace):
        streaming, watch = self.slow(upstream, 60.0, grace)
        watch.go_from(LONG + grace)
        pieces, fault = broken(streaming)
        assert (pieces, type(fault)) == ([], DeadlineExceeded)

    def test_grace_ends_too_even_in_one_long_silence(self, upstream):
        streaming, watch = self.slow(upstream, 60.0, grace=SHORT)
        watch.go_from(LONG)
        began = time.monotonic()
        pieces, fault = broken(streaming)
        assert (pieces, type(fault)) == ([], DeadlineExceeded)
        assert SHORT * 0.9 < time.monotonic() - began < SHORT + LATE

    def test_one_silence_may_take_all_the_time_that_is_left(self, upstream):
        """The client libraries count their time-out for each read; a stream's time is counted in all."""
        streaming, _ = self.slow(upstream, 2.2, grace=LONG, seconds=2.0)
        assert next(streaming).text
        streaming.close()

    # The line.

    def test_streams_one_after_another_share_a_connection(self, upstream):
        provider = self.provider(upstream)
        for number in range(5):
            listen(provider.stream(self.call_of(f"{number}")))
        provider.call(self.call_of())
        assert upstream.connections == 1

    def test_closing_a_stream_hangs_up_and_leaves_nothing_behind(self, upstream):
        provider = self.provider(upstream)
        provider.warm()
        upstream.script(Fault("ok", pause=60.0))
        streaming = provider.stream(self.call_of())
        next(streaming)
        gc.disable()
        try:
            streaming.close()
            assert self.pool(provider) == []
            assert upstream.wait_idle(LONG)
        finally:
            gc.enable()
        assert [call.delivered for call in upstream.journal] == [False]
        assert provider._line.open()[1].last_body() == b""
        assert provider.call(self.call_of()).text

    def test_a_stream_that_nobody_pulled_from_calls_nobody(self, upstream):
        provider = self.provider(upstream)
        provider.stream(self.call_of()).close()
        assert upstream.journal == []

    @pytest.mark.parametrize("name", INSIDE)
    def test_after_a_broken_stream_the_line_is_in_order(self, upstream, name):
        provider = self.provider(upstream)
        provider.warm()
        upstream.script(Fault(name, after=1, seconds=0.1))
        broken(provider.stream(self.call_of()))
        assert provider._line.open()[1].last_body() == b""
        assert listen(provider.stream(self.call_of()))[1].whole

    def test_many_streams_at_once_do_not_mix(self, upstream):
        provider = self.provider(upstream, connections=16)
        provider.warm()
        upstream.latency = 0.01
        replies = run_together(32, lambda index: listen(provider.stream(self.call_of(f"Ask {index}.")))[1])
        billed = {call.prompt: call.billed for call in upstream.journal}
        for index, reply in enumerate(replies):
            assert reply.usage == usage_of(billed[f"Ask {index}."])
        assert len({reply.text for reply in replies}) == 32
        assert all(connection.is_idle() for connection in self.pool(provider))
