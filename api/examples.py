"""Bodies that Swagger's *Try it out* can send as they stand, in place of those that its page would make up."""

from __future__ import annotations

from typing import Any

from flask_restx import Model, Namespace


class _Exampled(Model):  # type: ignore[misc]  # Flask-RESTX ships no types
    example: dict[str, Any]

    @property
    def _schema(self) -> dict[str, Any]:
        return {**super()._schema, "example": self.example}


def with_example(namespace: Namespace, model: Model, **example: Any) -> Model:
    """The model with an example of its own; the page would fill every field, names of models by their pattern."""
    exampled = _Exampled(model.name, model, strict=True)
    exampled.example = example
    return namespace.add_model(model.name, exampled)
