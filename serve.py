"""The process: waitress, a banner, and a drain on SIGTERM that loses nothing."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from waitress.server import BaseWSGIServer, create_server

from config import ConfigError, Settings
from security.redaction import redact
from services import Load, Services
from wire import speak_for_the_house

REFUSED_START = 78
# The drain ran out of time, or a second signal ended it, with requests still at work.
CUT_OFF = 1
# Above Flask's own limit, so that the JSON 413 answers.
MAX_WIRE_BODY_BYTES = 2 * 1024 * 1024
# A connection that was used so lately may be about to send its request.
QUIET_SECONDS = 0.5

log = logging.getLogger("llm_platform")


def main(build: Callable[[], Flask]) -> int:
    """Build the app and serve until told to stop; 0 after a clean drain, 1 after one cut short, 78 where the settings forbid."""
    log_to_terminal()
    try:
        app = build()
        house: Services = app.extensions["llm_platform"]
        check_exposure(house.settings)
        server = open_server(app, house.settings)
        house.ledger.start()
    except ConfigError as refusal:
        print(f"Not started: {refusal}", file=sys.stderr)  # noqa: T201  the operator's terminal is the place
        return REFUSED_START
    if house.settings.prompt_log != "off":
        house.logger.log_security_event("PROMPT_LOG_ENABLED", "HIGH", {"mode": house.settings.prompt_log})
    if house.settings.is_exposed:
        log.warning(
            "AUTH=open where others can reach it, by address or through a proxy: everybody who does may ask"
        )
    house.load.queue_length = lambda: len(server.task_dispatcher.queue)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # the queue's length is a metric of ours
    threading.Thread(target=warm_up, args=(house,), name="warm", daemon=True).start()
    speak_for_the_house(server, house.load)
    under_way = house.roads.under_way
    drain_on_signals(server, house.load, house.settings.drain_seconds, under_way)
    print(banner(house.settings, server.effective_port), flush=True)  # noqa: T201
    server.run()
    house.close()
    return CUT_OFF if is_at_work(server) or under_way() else 0


class OneLine(logging.Formatter):
    """One line an event, without secrets: libraries put words of the provider into their warnings."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record)).encode("unicode_escape").decode()


def log_to_terminal() -> None:
    """Warnings of this process and its libraries go to standard error."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[terminal])
    logging.captureWarnings(True)
    # Its warnings of empty replies are told in api_errors.log by us, with the request that they belong to.
    logging.getLogger("langchain_google_genai").setLevel(logging.ERROR)


def warm_up(house: Services) -> None:
    """Load what the first caller would wait for, and let the collector leave alone what is there to stay.

    Else each of its full rounds looks through all the libraries, a twentieth of what a cached hit costs.
    """
    house.warm()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def check_exposure(settings: Settings) -> None:
    """Refuse to offer open access to a network unless that was said aloud."""
    if not settings.is_exposed or settings.allow_anonymous:
        return
    if settings.on_loopback:
        raise ConfigError(
            "TRUSTED_PROXIES is above 0, so strangers come in through the proxy, and everybody who does could spend your "
            "money. Set AUTH=required, or TRUSTED_PROXIES=0 if there is no proxy, or ALLOW_ANONYMOUS=true if the proxy lets "
            "in only who may ask."
        )
    raise ConfigError(
        "HOST is not this machine's own address and everybody who can reach it could spend your money. "
        "Set AUTH=required, or HOST=127.0.0.1, or ALLOW_ANONYMOUS=true if a trusted network or proxy stands in front."
    )


def open_server(app: Flask, settings: Settings) -> BaseWSGIServer:
    """A bound waitress server that does not run yet."""
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "threads": settings.threads,
        "connection_limit": 1000,
        "backlog": 1024,
        "channel_request_lookahead": 0,
        "max_request_body_size": MAX_WIRE_BODY_BYTES,
        "max_request_header_size": 16384,
        # Of a long export its buffer would keep up to 16 MB, sent or not, and each thread that memory for good.
        "outbuf_high_watermark": MAX_WIRE_BODY_BYTES // 2,
        "expose_tracebacks": False,
        "ident": None,
        "clear_untrusted_proxy_headers": True,
    }
    if settings.trusted_proxies:
        options |= {
            "trusted_proxy": "*",
            "trusted_proxy_count": settings.trusted_proxies,
            "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"},
        }
    try:
        server = create_server(app, **options)
    except OSError as error:
        raise ConfigError(f"HOST and PORT cannot be bound ({error.strerror}). Choose another PORT.") from None
    except ValueError:
        raise ConfigError("HOST must be an address or a name of this machine.") from None
    if not isinstance(server, BaseWSGIServer):
        raise ConfigError("HOST must be one address; this name stands for several.")
    return server


def banner(settings: Settings, port: int) -> str:
    """What a newcomer needs: the mode, the address, three first calls, and where Swagger is."""
    base = f"http://{settings.host if ':' not in settings.host else f'[{settings.host}]'}:{port}"
    mode = (
        f"LIVE: answers come from {', '.join(settings.providers_at_hand)} and cost money."
        if settings.mode == "live"
        else (
            "SANDBOX: no key is set; answers are made up here and cost nothing. Set GOOGLE_API_KEY in .env for real ones."
        )
    )
    loud = (
        "\n  OPEN TO THE NETWORK: everybody who reaches this address, or a proxy in front of it, may ask.\n"
        if settings.is_exposed
        else ""
    )
    curl, keys = "curl -i -H 'Content-Type: application/json'", ""
    if settings.auth == "required":
        curl += ' -H "X-API-Key: $KEY"'
        keys = "\n  KEYS ONLY: `python cli.py create-key --name first --role admin` makes one.\n"
    return f"""
Enterprise LLM API Platform on {base}
  {mode}{loud}{keys}
First calls:
  {curl} {base}/api/v1/generate/text -d '{{"prompt": "Say hello in one sentence."}}'
  {curl} {base}/api/v1/generate/code -d '{{"prompt": "Write a function that reverses a string."}}'
  {curl} {base}/api/v1/classify/text -d '{{"text": "I love this phone.", "categories": ["positive", "negative"]}}'
Swagger: {base}/swagger/   Health: {base}/api/v1/health   Stop: Ctrl-C
"""


def drain_on_signals(
    server: BaseWSGIServer, load: Load, drain_seconds: float, under_way: Callable[[], int] = int
) -> None:
    """On SIGTERM or Ctrl-C stop listening, let what has arrived be answered, then end server.run().

    under_way: how many answers are still to be billed, though their readers may have left.
    """

    stopped = threading.Event()

    def stop_listening() -> None:  # runs inside the I/O loop, where the sockets may be touched
        known = -1
        while known < len(server.active_channels):  # take what the kernel has already accepted
            known = len(server.active_channels)
            server.handle_accept()
        server.del_channel()
        server.socket.close()
        stopped.set()

    def drain() -> None:
        server.trigger.pull_trigger(stop_listening)
        stopped.wait(5)
        time.sleep(0.05)  # waitress swallows what is raised inside a trigger: our signal must not fall there
        deadline = time.monotonic() + drain_seconds
        while time.monotonic() < deadline and (is_busy(server) or under_way()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)  # the second one ends server.run()

    def on_signal(*_: Any) -> None:
        if load.draining:
            raise SystemExit(0)
        load.draining = True  # /health/ready answers 503 from here on
        threading.Thread(target=drain, name="drain", daemon=True).start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def is_busy(server: BaseWSGIServer) -> bool:
    """Whether a request is waiting, at work, being written, or may be about to arrive."""
    lately = time.time() - QUIET_SECONDS
    return is_at_work(server) or any(
        channel.total_outbufs_len or channel.last_activity > lately
        for channel in list(server.active_channels.values())
    )


def is_at_work(server: BaseWSGIServer) -> bool:
    """Whether a request waits for its answer."""
    return bool(server.task_dispatcher.queue) or any(
        channel.requests for channel in list(server.active_channels.values())
    )
