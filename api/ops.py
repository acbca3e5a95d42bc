"""The doors of operators: health, metrics, Swagger, and the index."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from flask import Blueprint, Response
from flask_restx import apidoc

from api.house import services
from api.replies import json_reply
from api.v1 import PlatformApi
from config import VERSION

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def build_ops(api_v1: PlatformApi, api_v2: PlatformApi) -> Blueprint:
    """The blueprint of the operators' doors, new for each app."""
    blueprint = Blueprint("ops", __name__)
    blueprint.add_url_rule("/", view_func=index)
    blueprint.add_url_rule("/metrics", view_func=metrics)
    blueprint.add_url_rule("/api/v1/health", view_func=health)
    blueprint.add_url_rule("/api/v1/health/live", view_func=live)
    blueprint.add_url_rule("/api/v1/health/ready", view_func=ready)
    for address, name, api in (("/swagger/", "swagger", api_v1), ("/api/v2/swagger/", "swagger_v2", api_v2)):
        blueprint.add_url_rule(address, name, partial(apidoc.ui_for, api), strict_slashes=False)
    return blueprint


def index() -> Response:
    """Where a visitor finds everything else."""
    doors = {
        "name": "Enterprise LLM API Platform",
        "version": VERSION,
        "mode": services().settings.mode,
        "documentation": "/swagger/",
        "openai_compatible": "/api/v2/swagger/",
        "health": "/api/v1/health",
        "metrics": "/metrics",
        "tasks": ["/api/v1/generate/text", "/api/v1/generate/code", "/api/v1/classify/text"],
    }
    return json_reply(doors)


def health() -> Response:
    """How the platform is; never calls a provider."""
    checks = services().checks()
    return json_reply(_health(checks))


def _health(checks: dict[str, str]) -> dict[str, Any]:
    house = services()
    well = all(state == "ok" for state in checks.values())
    report = {
        "status": "healthy" if well else "degraded",
        "timestamp": time.time(),
        "version": VERSION,
        "mode": house.settings.mode,
        "checks": checks,
    }
    if house.settings.prompt_log != "off":
        report["prompt_log"] = house.settings.prompt_log
    if house.settings.is_exposed:
        report["anonymous"] = "served, to everybody who can reach this address or a proxy in front of it"
    return _detailed(report)


def live() -> Response:
    """The process answers."""
    return json_reply({"status": "alive"})


def ready() -> Response:
    """Whether new requests should come here; 503 while the process drains."""
    draining = services().load.draining
    checks = services().checks() | {"server": "draining" if draining else "ok"}
    return json_reply(_detailed({"ready": not draining, "checks": checks}), 503 if draining else 200)


def _detailed(report: dict[str, Any]) -> dict[str, Any]:
    """With what an operator has to put right, where there is such a thing."""
    details = services().details()
    return report | {"details": details} if details else report


def metrics() -> Response:
    """What Prometheus scrapes."""
    return Response(services().metrics.expose(), content_type=PROMETHEUS)
