"""How good classifications are: accuracy, precision and recall by category, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case. `answered` is None where there was no answer; then `code` and `error` say why."""

    line: int
    request_id: str
    multi_label: bool
    expected: tuple[str, ...]
    answered: tuple[str, ...] | None = None
    model: str = ""
    code: str = ""
    error: str = ""

    @property
    def correct(self) -> bool:
        """Exactly what was expected: of several categories none is missing and none too many."""
        return self.answered is not None and set(self.answered) == set(self.expected)


def accuracy_report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures over the cases that were answered; those that were not are listed. A share of None is one of nothing."""
    answered = [outcome for outcome in outcomes if outcome.answered is not None]
    correct = sum(outcome.correct for outcome in answered)
    return {
        "cases": len(outcomes),
        "answered": len(answered),
        "correct": correct,
        "accuracy": _share(correct, len(answered)),
        "models": dict(Counter(outcome.model for outcome in answered)),
        "categories": _by_category(answered),
        "confusion": _confusion(answered),
        "wrong": [_told(outcome) for outcome in answered if not outcome.correct],
        "failed": [_told(outcome) for outcome in outcomes if outcome.answered is None],
    }


def _by_category(answered: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """Precision: how many of those answered were right; recall: how many of those expected were answered."""
    expected, given, right = Counter[str](), Counter[str](), Counter[str]()
    for outcome in answered:
        named = set(outcome.answered or ())
        expected.update(outcome.expected)
        given.update(named)
        right.update(named & set(outcome.expected))
    return {
        name: {
            "expected": expected[name],
            "answered": given[name],
            "correct": right[name],
            "precision": _share(right[name], given[name]),
            "recall": _share(right[name], expected[name]),
        }
        for name in sorted(expected | given)
    }


def _confusion(answered: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """By the expected category how often each was answered, of cases with one category: several pair up with nothing."""
    counted: dict[str, dict[str, int]] = {}
    for outcome in answered:
        if not outcome.multi_label and outcome.answered:
            row = counted.setdefault(outcome.expected[0], {})
            row[outcome.answered[0]] = row.get(outcome.answered[0], 0) + 1
    return {name: dict(sorted(row.items())) for name, row in sorted(counted.items())}


def _told(outcome: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = {"line": outcome.line, "request_id": outcome.request_id}
    told["expected"] = _shown(outcome, outcome.expected)
    if outcome.answered is None:
        return told | {"code": outcome.code, "error": outcome.error}
    return told | {"answered": _shown(outcome, outcome.answered)}


def _shown(outcome: Outcome, names: tuple[str, ...]) -> str | list[str]:
    return list(names) if outcome.multi_label else names[0]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
