"""The wire below a provider's client: the total time and the size of a reply are bounded here."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpcore
import httpx
import httpx2

# Above any reply that a model can write; what is longer is an attack or a mistake.
MAX_REPLY_BYTES = 8 * 1024 * 1024
# OpenAI's client stops reading at this mark, a moment before the reply's end; unread, that costs the connection.
END_MARK, LAST_SECONDS = b"[DONE]", 0.1


class ReplyTooLarge(Exception):
    """The reply is longer than any answer may be, or packed although we asked for plain bytes."""


Request = httpx.Request | httpx2.Request


class BoundedTransport(httpx.BaseTransport, httpx2.BaseTransport):
    """Connections of one client, on which no call outlives its timeout and no reply its size limit.

    httpx and httpx2 count their timeout anew for each read, so that a dripping reply would never end; here it
    is the time for the whole call. Packed replies are refused, because their real size shows only when it is
    too late. Proxies of the environment and redirects are unknown here. Serves clients of either library, and
    raises httpcore's exceptions to both: theirs differ, and their clients pass these through as they are.
    """

    def __init__(
        self,
        connections: int,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_bytes: int = MAX_REPLY_BYTES,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timed = _TimedBackend(timer)
        self._max_bytes = max_bytes
        self._seen = threading.local()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=60,
            network_backend=self._timed,
        )
        # A client that nobody holds any more leaves no socket open.
        weakref.finalize(self, self._pool.close)

    def handle_request(self, request: Request) -> Any:
        """The reply, as a Response of the library that the request is of."""
        self._timed.start((request.extensions.get("timeout") or {}).get("read"))
        self.hang_up()
        self._seen.called = True
        request.headers["Accept-Encoding"] = "identity"
        reply = self._pool.handle_request(_to_httpcore(request))
        library: Any = httpx2 if isinstance(request, httpx2.Request) else httpx
        headers = library.Headers(reply.headers)
        packed = headers.get("Content-Encoding", "identity").lower() != "identity"
        if packed or _length(headers) > self._max_bytes:
            reply.close()
            raise ReplyTooLarge
        stream = self._seen.reply = _Bounded(reply, self._max_bytes, self._seen.chunks, self._timed)
        return library.Response(reply.status, headers=headers, stream=stream, extensions=reply.extensions)

    def last_body(self) -> bytes:
        """The body of the last reply on this thread, for facts that the client library leaves out."""
        return b"".join(getattr(self._seen, "chunks", ()))

    def take_body(self) -> bytes:
        """What came of that body since it was last taken."""
        chunks = getattr(self._seen, "chunks", [])
        body = b"".join(chunks)
        chunks.clear()
        return body

    @property
    def called(self) -> bool:
        """Whether a request went out on this thread since it last hung up."""
        return getattr(self._seen, "called", False)

    def extend(self, seconds: float) -> None:
        """Grant the call on this thread so much more time."""
        self._timed.extend(seconds)

    def hang_up(self) -> None:
        """Be done with that reply: a thread may wait long for its next one, and a body may have megabytes."""
        reply = getattr(self._seen, "reply", None)
        self._seen.chunks, self._seen.reply, self._seen.called = [], None, False
        if reply is not None:
            reply.close()

    def close(self) -> None:
        self._pool.close()


def _to_httpcore(request: Request) -> httpcore.Request:
    url = httpcore.URL(
        scheme=request.url.raw_scheme,
        host=request.url.raw_host,
        port=request.url.port,
        target=request.url.raw_path,
    )
    return httpcore.Request(
        request.method,
        url,
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _length(headers: Mapping[str, str]) -> int:
    declared = headers.get("Content-Length", "0")
    return int(declared) if declared.isdigit() else 0


class _Bounded(httpx.SyncByteStream, httpx2.SyncByteStream):
    def __init__(
        self, reply: httpcore.Response, max_bytes: int, seen: list[bytes], timed: _TimedBackend
    ) -> None:
        self._reply, self._left, self._seen, self._timed = reply, max_bytes, seen, timed
        self._chunks = reply.iter_stream()
        self._last = b""

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._left -= len(chunk)
            if self._left < 0:
                raise ReplyTooLarge
            self._seen.append(chunk)
            self._last = chunk
            yield chunk

    def close(self) -> None:
        if self._last.rstrip().endswith(END_MARK):
            self._timed.start(LAST_SECONDS)
            with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                next(self._chunks, None)
        self._last = b""
        self._reply.close()


class _TimedBackend(httpcore.SyncBackend):
    """Gives each read and write only what is left of its call; a call lives on one thread."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._call = threading.local()

    def start(self, seconds: float | None) -> None:
        self._call.deadline = None if seconds is None else self._timer() + seconds

    def extend(self, seconds: float) -> None:
        if getattr(self._call, "deadline", None) is not None:
            self._call.deadline += seconds

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
        deadline = getattr(self._call, "deadline", None)
        if deadline is None:
            return timeout
        seconds: float = deadline - self._timer()
        if seconds <= 0:
            raise late("the call's time is up")
        return seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _addresses(host, port)
        for number, address in enumerate(addresses, 1):
            seconds = self.left(timeout, httpcore.ConnectTimeout)
            share = None if seconds is None else seconds / (len(addresses) - number + 1)
            try:
                stream = super().connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                return _TimedStream(stream, self)
        raise httpcore.ConnectError(f"{host} has no address")


def _addresses(host: str, port: int) -> list[str]:
    """Every address of a host: given the name, the socket library would grant each of them the whole time."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError("the host's name cannot be resolved") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, backend: _TimedBackend) -> None:
        self._stream, self._backend = stream, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        timeout = self._backend.left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._backend)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
