"""The services of the app that is asked."""

from __future__ import annotations

from flask import current_app

from services import Services


def services() -> Services:
    house: Services = current_app.extensions["llm_platform"]
    return house
