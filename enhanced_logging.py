"""RequestLogger: what happened, to whom and how long it took, in four rotating logs of JSON lines."""

# Above 300 lines, because the four logs of one request share its trace and its rules on texts.

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from traceback import TracebackException
from typing import Any, cast

from flask import Request, g, has_request_context, request
from werkzeug.local import LocalProxy

from log_lines import Record
from log_writer import LogWriter
from security.audit_bound import AuditBound
from security.detection import Envelope, Finding, detect, scan_text
from security.redaction import Redact, Verbatim

_TEN_MIB = 10 * 2**20
# So many events are shown; of so many of all tenants.
_RECENT, _KEPT = 20, 1000
_FRAMES, _TRACEBACK_LENGTH = 20, 8192
_SCORES = {"LOW": 1, "MEDIUM": 3, "HIGH": 5}
_BODY_TEXTS = ("prompt", "text", "categories", "messages", "input")
# What callers and models write. Under these names no mapping is logged as it is.
_TEXTS = frozenset(
    {*_BODY_TEXTS, "response", "answer", "content", "completion", "output"}
    | {"generated_text", "generated_code", "classification"}
)
_NESTED = (dict, list, tuple, Mapping)  # the plain ones first: an abstract class is slow to ask
_WORDY = (str, bytes, *_NESTED)


@dataclass(slots=True)
class _Trace:
    """What the lines of one request have in common. All null outside of a request."""

    request_id: str | None = None
    started: float = 0.0
    address: str | None = None
    method: str | None = None
    route: str | None = None
    path: str | None = None
    tenant: str | None = None
    key_id: str | None = None
    open: bool = True
    deferred: bool = False


class RequestLogger:
    """Writes api_requests.log, performance.log, api_errors.log and security_audit.log in `log_dir`.

    No file exists before its first line. A writer that is handed in stays open when this is closed;
    `redact` is the writer's own, unless given. With `prompt_log` "off" no text of a caller or a model is
    written, only its length and a digest; "redacted" adds the text without secrets, "full" as it is.
    """

    def __init__(
        self,
        log_dir: str | Path = "logs",
        *,
        writer: LogWriter | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
        prompt_log: str = "off",
        max_bytes: int = _TEN_MIB,
        backups: int = 5,
        redact: Redact | None = None,
        address_of: Callable[[], str | None] = lambda: request.remote_addr,
    ) -> None:
        self._writer, self._owns_writer = writer or LogWriter(), writer is None
        self._clock, self._timer, self._prompt_log, self._address_of = clock, timer, prompt_log, address_of
        self._bound = AuditBound(timer)
        self._recent: deque[tuple[object, Record]] = deque(maxlen=_KEPT)
        self._slot = f"request_log_{id(self)}"  # two loggers in one request must not end each other's
        self._requests, self._performance, self._errors, self._audit = (
            self._writer.channel(Path(log_dir) / f"{name}.log", max_bytes, backups, redact)
            for name in ("api_requests", "performance", "api_errors", "security_audit")
        )

    def log_request_start(self, request_id: str | None = None) -> str:
        """The REQUEST_START line; returns the id, a fresh one if none is given."""
        request_id = request_id or uuid.uuid4().hex
        asked, now = _current(), self._clock()
        trace = self._new_trace(request_id, asked)
        more: Record = {}
        if asked is not None:
            asked.environ[self._slot] = trace
            more["user_agent"] = asked.environ.get("HTTP_USER_AGENT", "")
        self._requests.write(lambda: self._record("REQUEST_START", trace, now) | more)
        return request_id

    def log_request_end(
        self,
        response_data: object,
        status_code: int,
        cached: bool = False,
        cost_info: Mapping[str, object] | None = None,
        *,
        prompt: str | None = None,
    ) -> None:
        """The one REQUEST_END of a REQUEST_START: a further call in the same request does nothing."""
        trace = self._trace()
        if not trace.deferred:
            self._end(trace, response_data, status_code, cached, cost_info, prompt)

    def defer_request_end(self) -> Callable[..., None]:
        """For a stream: takes END away from the request's hooks and returns it, to be called with the same
        arguments from any thread, also after the request's context has gone; the first call counts."""
        trace = self._trace()
        trace.deferred = True
        return partial(self._end, trace)

    def log_error(self, error: object, *notes: object, **context: object) -> None:
        """A failure of ours or of a provider, with its traceback: for this log only, never for a caller."""
        record = self._record("ERROR", self._trace())
        record |= {"level": "ERROR", **_told(error)}
        if notes:
            context["notes"] = notes
        if context:
            record["context"] = self._sealed(context)
        self._errors.write(record)

    def log_security_event(
        self, event_type: str, severity: str, details: object, *, address: str | None = None
    ) -> None:
        """A line of the audit log, whatever the severity: LOW, MEDIUM, HIGH or CRITICAL. What a caller can cause at will is
        bounded by address. address: the caller's, where the request itself has gone."""
        trace = self._trace()
        trace.address = address or trace.address
        if not self._bound.admits(event_type, trace.address):
            return
        record = self._record(event_type, trace)
        record |= {"severity": str(severity).upper(), "details": self._sealed(details)}
        now_us = int(self._clock() * 1_000_000)
        told = {"at_us": now_us, "event": str(event_type), "severity": record["severity"]}
        self._recent.append((record["tenant"] or "anonymous", told))
        self._audit.write(record)

    @property
    def audit_lines_left_out(self) -> int:
        return self._bound.left_out

    def recent_events(self, tenant: str | None = None) -> list[Record]:
        """The last security events of this process, newest first, without what they were about; of one tenant or all."""
        return [told for whose, told in reversed(self._recent.copy()) if tenant in (None, whose)][:_RECENT]

    def _check_security_issues(self, request_data: Mapping[str, Any]) -> list[Finding]:
        """Findings in `path`, `query` or `args`, `headers`, `user_agent`; in the body's texts at most LOW.

        One event for all of them, without the texts themselves.
        """
        findings = detect(_envelope(request_data)) + _body_findings(request_data)
        if findings:
            worst = max(findings, key=lambda finding: _SCORES[finding.severity]).severity
            event = "THREAT_BODY" if worst == "LOW" else "THREAT_ENVELOPE"
            self.log_security_event(event, worst, _summary(findings))
        return findings

    def flush(self, timeout: float = 5.0) -> bool:
        return self._writer.flush(timeout)

    def close(self) -> None:
        self._writer.close() if self._owns_writer else self._writer.flush()

    def _new_trace(self, request_id: str | None, asked: Request | None) -> _Trace:
        if asked is None:
            return _Trace(request_id, self._timer())
        route = asked.url_rule.rule if asked.url_rule else "<unmatched>"
        address, (tenant, key_id) = self._address_of(), _caller(_known())
        return _Trace(request_id, self._timer(), address, asked.method, route, asked.path, tenant, key_id)

    def _trace(self) -> _Trace:
        """That of the current request; closed where its START was never written."""
        asked = _current()
        if asked is None:
            return _Trace(started=self._timer())
        known = _known()
        trace: _Trace | None = asked.environ.get(self._slot)
        if trace is None:
            trace = self._new_trace(known.get("request_id"), asked)
            trace.open = False
        trace.tenant, trace.key_id = _caller(known)
        return trace

    def _record(self, event: str, trace: _Trace, now: float | None = None) -> Record:
        return {
            "timestamp": datetime.fromtimestamp(self._clock() if now is None else now, UTC),
            "event": event,
            "request_id": trace.request_id,
            "tenant": trace.tenant,
            "key_id": trace.key_id,
            "address": trace.address,
            "method": trace.method,
            "route": trace.route,
            "path": trace.path,
        }

    def _end(
        self,
        trace: _Trace,
        response_data: object,
        status_code: int,
        cached: bool = False,
        cost_info: Mapping[str, object] | None = None,
        prompt: str | None = None,
    ) -> None:
        if not trace.open:
            return
        trace.open = False
        duration, now = round((self._timer() - trace.started) * 1000, 3), self._clock()
        outcome: Record = {"status": status_code, "duration_ms": duration, "cached": bool(cached)}
        self._performance.write(lambda: self._record("PERFORMANCE", trace, now) | outcome)
        more: Record = {}
        if status_code >= 400:
            level = "WARNING" if status_code < 500 else "ERROR"
            failed: Record = {"level": level, "code": _code_of(response_data)}
            self._errors.write(lambda: self._record("REQUEST_ERROR", trace, now) | outcome | failed)
        else:
            more |= self._described("response", _text_of(response_data))
        more |= self._described("prompt", prompt)
        if cost_info:
            more["cost"] = self._sealed(cost_info)
        self._requests.write(lambda: self._record("REQUEST_END", trace, now) | outcome | more)

    def _described(self, name: str, text: str | None) -> Record:
        if text is None:
            return {}
        facts: Record = {f"{name}_length": len(text), f"{name}_digest": _digest(text)}
        if self._prompt_log != "off":
            facts[name] = Verbatim(text) if self._prompt_log == "full" else text
        return facts

    def _sealed(self, value: object, depth: int = 4) -> object:
        """The value with each text of a caller or a model in it treated as `prompt_log` says."""
        if not isinstance(value, _NESTED):
            return value
        if depth == 0:
            return "[nested too deeply]"
        if isinstance(value, Mapping):
            return {
                key: self._described("text", str(item))
                if isinstance(item, _WORDY) and str(key).lower() in _TEXTS
                else self._sealed(item, depth - 1)
                for key, item in value.items()
            }
        return [self._sealed(item, depth - 1) for item in value]


def _current() -> Request | None:
    """The request itself, looked up once: each attribute through Flask's proxy takes a microsecond."""
    if not has_request_context():
        return None
    return cast(LocalProxy[Request], request)._get_current_object()


def _known() -> dict[str, Any]:
    """What the hooks have found out about the current request."""
    known: dict[str, Any] = vars(cast(LocalProxy[Any], g)._get_current_object())
    return known


def _caller(known: Mapping[str, Any]) -> tuple[str, str | None]:
    return known.get("tenant") or "anonymous", known.get("key_id")


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _text_of(response_data: object) -> str | None:
    """The words of a reply: a mapping may hold them under any name, and holds little else."""
    if response_data is None or isinstance(response_data, str):
        return response_data
    if isinstance(response_data, Mapping):
        return "\n".join(value for value in response_data.values() if isinstance(value, str))
    return str(response_data)


def _code_of(response_data: object) -> object:
    """The stable word of an error reply, in our shape or in OpenAI's."""
    if not isinstance(response_data, Mapping):
        return None
    inner = response_data.get("error")
    return response_data.get("code") or (inner.get("code") if isinstance(inner, Mapping) else None)


def _told(error: object) -> Record:
    if not isinstance(error, BaseException):
        return {"error_type": None, "message": str(error)}
    told = TracebackException.from_exception(error, limit=-_FRAMES)
    message = "".join(told.format_exception_only()).strip()  # survives an exception that cannot print itself
    return {"error_type": type(error).__name__, "message": message, "traceback": _last(told.format())}


def _last(frames: Iterable[str]) -> list[str]:
    """The last frames, which say most, within the length that a line of the error log may give them."""
    kept: deque[str] = deque()
    room = _TRACEBACK_LENGTH
    for frame in reversed(deque(frames, maxlen=2 * _FRAMES)):
        room -= min(len(frame), 2048)
        if room < 0:
            break
        kept.appendleft(frame)
    return list(kept)


def _envelope(request_data: Mapping[str, Any]) -> Envelope:
    query = request_data.get("query") or request_data.get("args") or ""
    if not isinstance(query, str):
        query = "&".join(f"{name}={value}" for name, value in query.items())
    headers = request_data.get("headers") or ()
    pairs = headers.items() if hasattr(headers, "items") else headers
    return Envelope(
        path=str(request_data.get("path") or request_data.get("url") or ""),
        query=query,
        headers=[(str(name), str(value)) for name, value in pairs],
        user_agent=str(request_data.get("user_agent") or ""),
    )


def _body_findings(request_data: Mapping[str, Any]) -> list[Finding]:
    body = request_data.get("body")
    fields = {**body, **request_data} if isinstance(body, Mapping) else request_data
    named = ((name, fields[name]) for name in _BODY_TEXTS if fields.get(name))
    return [finding for name, text in named for finding in scan_text(str(text), f"body:{name}")]


def _summary(findings: list[Finding]) -> Record:
    return {
        "score": sum(_SCORES[finding.severity] for finding in findings),
        "kinds": sorted({finding.kind for finding in findings}),
        "rules": [finding.rule for finding in findings],
        "where": [finding.where for finding in findings],
    }
