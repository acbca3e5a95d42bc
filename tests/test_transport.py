"""The wire below the client: no call outlives its time, no reply its size, and nothing leads elsewhere."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpcore
import httpx
import httpx2
import pytest

from providers import transport
from providers.line import Line
from providers.transport import MAX_REPLY_BYTES, BoundedTransport, ReplyTooLarge
from tests.cache_contract import run_together
from tests.readers import wait_until
from tests.upstream import Fault, Tokens, Upstream

BODY = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    """The HTTP library of a provider's client: Gemini's is the first, the others' the second."""
    return request.param


@pytest.fixture
def clients(library: Any) -> Iterator[Any]:
    """Builds bare HTTP clients on a BoundedTransport."""
    built: list[Any] = []

    def build(connections: int = 4, **options: Any) -> Any:
        built.append(library.Client(transport=BoundedTransport(connections, **options), trust_env=False))
        return built[-1]

    yield build
    for client in built:
        client.close()


def ask(client: Any, upstream: Upstream, method: str = "generateContent", seconds: float = 5.0) -> Any:
    url = f"{upstream.url}/v1beta/models/gemini-test:{method}"
    return client.post(url, json=BODY, headers={"x-goog-api-key": "any-key"}, timeout=seconds)


def test_a_good_reply_comes_through_whole(clients, upstream):
    client = clients()
    reply = ask(client, upstream)
    assert reply.status_code == 200
    assert reply.json()["usageMetadata"]["promptTokenCount"] > 0
    assert client._transport.last_body() == reply.content


def test_a_reply_is_of_the_library_that_asked(clients, upstream, library):
    assert type(ask(clients(), upstream)) is library.Response


def test_a_transport_that_nobody_holds_any_more_leaves_no_socket_open(library, upstream):
    """Warnings are errors here, and a socket that is collected while open is one."""
    transport = BoundedTransport(1)
    pool = transport._pool
    ask(library.Client(transport=transport, trust_env=False), upstream)
    assert pool.connections
    del transport
    gc.collect()
    assert pool.connections == []


def test_every_line_verifies_with_the_authorities_that_were_read_once():
    lines = [Line(lambda transport: transport, 1) for _ in range(2)]
    first, second = (line.open()[1]._pool._ssl_context for line in lines)
    assert first is second
    assert (first.verify_mode, first.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(first.get_ca_certs()) > 50


def test_connections_are_kept_and_never_more_than_allowed(clients, upstream):
    client = clients(3)
    upstream.latency = 0.02
    replies = run_together(12, lambda _: ask(client, upstream).status_code)
    assert replies == [200] * 12
    assert upstream.max_in_flight <= 3
    assert upstream.connections < 12  # the pool now and then replaces one


def test_a_dripping_reply_ends_with_the_time_of_the_whole_call(clients, upstream):
    """Each single read is well within the timeout; together they are not."""
    upstream.script(Fault("drip", seconds=0.05))
    began = time.monotonic()
    with pytest.raises(httpcore.ReadTimeout):
        ask(clients(), upstream, seconds=1.0)
    assert 1.0 <= time.monotonic() - began < 15  # dripped to its end it takes half a minute


def test_the_time_of_a_call_is_counted_on_the_given_clock(clients, upstream):
    """An hour passes when the request has arrived, so the reply comes too late although no time went by."""
    upstream.script(Fault("drip", seconds=0.001))
    began = time.monotonic()
    with pytest.raises(httpcore.TimeoutException):
        ask(clients(timer=lambda: 3600.0 if upstream.journal else 0.0), upstream, seconds=300.0)
    assert time.monotonic() - began < 5


def test_a_hanging_reply_ends_in_time(clients, upstream):
    upstream.script(Fault("hang"))
    began = time.monotonic()
    with pytest.raises(httpcore.ReadTimeout):
        ask(clients(), upstream, seconds=1.0)
    assert time.monotonic() - began < 30  # it hangs for a minute


def test_the_time_of_one_call_does_not_end_another_on_the_same_thread(clients, upstream):
    now = [0.0]
    client = clients(timer=lambda: now[0])
    for moment in (0.0, 3600.0):
        now[0] = moment
        assert ask(client, upstream, seconds=30.0).status_code == 200
    assert upstream.connections == 1


def test_the_time_of_one_call_does_not_end_another_on_another_thread(clients, upstream):
    client = clients()
    upstream.script(Fault("slow", seconds=2.0), Fault("hang"))

    def act(index: int) -> Any:
        if index == 0:
            return ask(client, upstream, seconds=30.0).status_code
        assert wait_until(lambda: upstream.journal)
        with pytest.raises(httpcore.ReadTimeout):
            ask(client, upstream, seconds=1.0)
        return "cut"

    assert run_together(2, act) == [200, "cut"]


@pytest.mark.parametrize("fault", ["huge", "gzip_bomb"])
def test_a_reply_above_the_limit_is_refused_and_its_place_in_the_pool_is_free_again(clients, upstream, fault):
    client = clients(1)
    for _ in range(3):
        upstream.script(fault)
        with pytest.raises(ReplyTooLarge):
            ask(client, upstream)
    assert ask(client, upstream).status_code == 200


def test_a_reply_of_undeclared_length_is_cut_at_the_limit(clients, upstream):
    client = clients(1, max_bytes=600)
    with pytest.raises(ReplyTooLarge):
        ask(client, upstream, "streamGenerateContent?alt=sse")
    assert len(client._transport.last_body()) <= 600
    upstream.script(Fault("says", text="ok", usage=Tokens(prompt=1)))
    assert ask(client, upstream).status_code == 200


def test_the_limit_is_the_last_byte_that_passes(clients, upstream):
    said = Fault("says", text="word " * 20, usage=Tokens(prompt=1))
    upstream.script(said, said, said)
    size = len(ask(clients(), upstream).content)
    assert ask(clients(max_bytes=size), upstream).status_code == 200
    with pytest.raises(ReplyTooLarge):
        ask(clients(max_bytes=size - 1), upstream)


def test_no_answer_of_a_model_is_as_long_as_the_limit():
    assert MAX_REPLY_BYTES == 8 * 1024 * 1024


def test_a_redirect_is_a_reply_and_leads_nowhere(clients, upstream):
    upstream.script("redirect")
    reply = ask(clients(), upstream)
    assert reply.status_code == 302
    assert [call.method for call in upstream.journal] == ["generate"]


def test_a_packed_reply_is_never_asked_for_nor_unpacked(clients, upstream, library):
    upstream.script(Fault("ok", headers=(("Content-Encoding", "deflate"),)))
    with pytest.raises(ReplyTooLarge):
        ask(clients(), upstream)
    request = library.Request("GET", upstream.url, headers={"Accept-Encoding": "gzip, br"})
    clients()._transport.handle_request(request).close()
    assert request.headers["Accept-Encoding"] == "identity"


def test_proxies_of_the_environment_are_unknown_here(clients, upstream, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(clients(), upstream).status_code == 200


def test_the_last_body_is_that_of_this_threads_last_call(clients, upstream):
    client = clients(8)

    def act(_: int) -> bool:
        own = [ask(client, upstream).content == client._transport.last_body() for _ in range(5)]
        return all(own)

    assert run_together(8, act) == [True] * 8
    upstream.script("reset_before")
    with pytest.raises(httpcore.NetworkError):
        ask(client, upstream)
    assert client._transport.last_body() == b""


def test_a_lost_connection_is_said_at_once(clients, upstream):
    upstream.script("cut_body")
    with pytest.raises(httpcore.RemoteProtocolError):
        ask(clients(), upstream)
    with pytest.raises(httpcore.ConnectError):
        clients().post("http://127.0.0.1:9/", json=BODY, timeout=2)


def test_a_host_of_several_addresses_is_reached_by_the_one_that_answers(clients, upstream):
    """localhost is ::1 and 127.0.0.1 on most machines; the upstream listens on the second only."""
    url = upstream.url.replace("127.0.0.1", "localhost")
    reply = clients().post(
        f"{url}/v1beta/models/gemini-test:generateContent", json=BODY, headers={"x-goog-api-key": "any-key"}
    )
    assert reply.status_code == 200


def test_a_host_without_an_address_is_a_connect_error(clients):
    with pytest.raises(httpcore.ConnectError):
        clients().post("http://no-such-host.invalid:1/", json=BODY, timeout=5)


def begun(client: Any, upstream: Upstream, seconds: float = 5.0) -> Any:
    """A streamed reply whose first bytes are there."""
    url = f"{upstream.url}/v1beta/models/gemini-test:streamGenerateContent?alt=sse"
    request = client.build_request(
        "POST", url, json=BODY, headers={"x-goog-api-key": "any-key"}, timeout=seconds
    )
    reply = client.send(request, stream=True)
    chunks = reply.iter_bytes()
    assert next(chunks)
    return chunks


def test_a_call_may_be_given_more_time_while_it_runs(clients, upstream):
    now = [0.0]
    client = clients(timer=lambda: now[0])
    for more, pause in ((60.0, 0.1), (0.0, 30.0)):
        upstream.script(Fault("ok", pause=pause))
        now[0] = 0.0
        chunks = begun(client, upstream, seconds=30.0)
        now[0] = 45.0
        client._transport.extend(more)
        if more:
            assert b"".join(chunks)
        else:
            with pytest.raises(httpcore.ReadTimeout):
                b"".join(chunks)


def test_more_time_for_a_call_without_a_limit_changes_nothing(clients, upstream):
    client = clients()
    chunks = begun(client, upstream, seconds=None)
    client._transport.extend(-5.0)
    assert b"".join(chunks)


def test_hanging_up_closes_what_is_still_open_and_forgets_its_body(clients, upstream):
    client = clients()
    upstream.script(Fault("ok", pause=5.0))
    begun(client, upstream)
    assert client._transport.called
    client._transport.hang_up()
    assert client._transport._pool.connections == []
    assert upstream.wait_idle()
    assert (client._transport.called, client._transport.last_body()) == (False, b"")


def test_hanging_up_after_a_whole_reply_keeps_the_connection(clients, upstream):
    client = clients()
    for _ in range(3):
        ask(client, upstream)
        client._transport.hang_up()
    assert upstream.connections == 1


def test_what_was_taken_of_a_body_is_not_kept(clients, upstream):
    client = clients()
    upstream.script(Fault("ok", pause=0.05))
    chunks = begun(client, upstream)
    taken = [client._transport.take_body(), *(client._transport.take_body() for _ in chunks)]
    assert len(taken) == 4
    assert all(taken)
    assert client._transport.take_body() == client._transport.last_body() == b""


@pytest.mark.parametrize(
    ("soon", "delay", "kept"), [(30.0, 0.0, True), (30.0, 0.02, True), (0.1, 60.0, False)]
)
def test_a_reader_who_stops_at_the_end_mark_keeps_the_connection_if_the_end_follows_soon(
    clients, monkeypatch, soon, delay, kept
):
    """Servers send the mark and the end of the body one after the other, often in packets of their own."""
    monkeypatch.setattr(transport, "LAST_SECONDS", soon)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=say_done, args=(server, over, delay))
        thread.start()
        client = clients()
        with client.stream("GET", f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=30) as reply:
            assert next(reply.iter_bytes()).endswith(b"[DONE]\n\n")
            began = time.monotonic()
        assert time.monotonic() - began < 30
        assert bool(client._transport._pool.connections) is kept
        over.set()
        client.close()
        thread.join(30)


def test_a_reader_who_stops_at_the_end_mark_waits_for_the_end_no_longer_than_anybody_notices():
    assert transport.LAST_SECONDS == 0.1


def say_done(server: socket.socket, over: threading.Event, delay: float) -> None:
    with server.accept()[0] as connection, contextlib.suppress(OSError):
        connection.recv(65536)
        body = b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"%x\r\n%b\r\n" % (len(body), body))
        over.wait(delay)
        connection.sendall(b"0\r\n\r\n")
        connection.recv(1)
