"""An estimate of cl100k_base token counts with no dependency, no file and no network."""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter

# The pieces into which cl100k_base cuts a text before it looks anything up; each costs one token or more.
# The run of signs is possessive because a long one would otherwise cost four times as much per doubling.
_PIECE = re.compile(
    r"(?:[^\r\n\w]|_)?[^\W\d_]+"  # a run of letters with the one sign before it
    r"|\d{1,3}"
    r"| ?(?:[^\s\w]|_)++[\r\n]*"  # a run of signs with the line ends behind it
    r"|\s*[\r\n]|\s+(?!\S)|\s"
)
_CASE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # the words of a camelCase name
_SPACED_WORD = re.compile(r" [a-z\u00df-\u024f]+")

# What the letters of a word cost beyond its first token, by case and by whether a space stands before it:
# (letters that are free, tokens per further letter). The vocabulary knows most " words", fewer "words".
_ENGLISH = {
    ("lower", True): (9, 0.04),
    ("lower", False): (5, 0.15),
    ("title", True): (5, 0.10),
    ("title", False): (6, 0.11),
    ("upper", True): (5, 0.02),
    ("upper", False): (3, 0.24),
}
_FOREIGN = (4, 0.23)

# A text of spaced words with few of these is not in English, and its words are cut into more tokens.
_SMALL_WORDS = (
    "the to and for that this be are with by it not from if can will you your should when which have has must "
    "its than then into used using other only also each any may how what they their these there import return "
    "self def none true false class else new type name value set get string default"
)
_KNOWN = frozenset(_SMALL_WORDS.split())
_ENGLISH_SHARE, _DOUBT = 0.14, 0.4  # part of a small word on credit: a short text is taken for English

_SIGNS_FREE, _SIGN_RATE = 2, 0.46
_RULE_RATE = 1 / 32  # rules such as ------ have tokens of their own
_LEAD_RATE = 0.08  # "(word" is one piece but not always one token

_UNICODE_PIECE, _UNICODE_ASCII = 0.44, 0.37
_SCRIPTS = (  # first character of each block, tokens per character
    ("\u0080", 0.95),  # Latin letters with accents
    ("\u0370", 0.98),  # Greek
    ("\u0400", 2.8),  # Cyrillic letters that Russian lacks
    ("\u0410", 0.41),  # Cyrillic
    ("\u0450", 2.8),
    ("\u0530", 1.3),  # Armenian
    ("\u0590", 1.07),  # Hebrew
    ("\u0600", 0.74),  # Arabic
    ("\u0700", 1.5),
    ("\u0900", 0.96),  # Devanagari
    ("\u0980", 1.5),  # the other scripts of India
    ("\u0e00", 0.89),  # Thai
    ("\u0e80", 1.5),
    ("\u1e00", 0.75),  # Vietnamese
    ("\u1f00", 1.5),
    ("\u2000", 0.5),  # dashes and quotation marks
    ("\u2100", 0.97),
    ("\u3000", 0.95),
    ("\u3040", 0.95),  # kana
    ("\u3100", 2.0),
    ("\u4e00", 1.02),  # Han
    ("\ua000", 2.0),
    ("\uac00", 1.0),  # Hangul
    ("\ud7b0", 2.0),
    ("\uff00", 0.6),
    ("\U00010000", 2.5),  # emoji
)
_STARTS = [start for start, _ in _SCRIPTS]


def estimate_tokens(text: str) -> int:
    """About as many tokens as cl100k_base would count; docs/token-estimate.md has the errors."""
    pieces = Counter(_PIECE.findall(text))
    foreign = _foreign_share(pieces)
    return round(sum(count * _tokens(piece, foreign) for piece, count in pieces.items()))


def _foreign_share(pieces: Counter[str]) -> float:
    """How little a text looks like English or code, from 0.0 to 1.0."""
    words = known = 0
    for piece, count in pieces.items():
        if _SPACED_WORD.fullmatch(piece):
            words += count
            known += count if piece[1:] in _KNOWN else 0
    return max(0.0, 1 - (known + _DOUBT) / words / _ENGLISH_SHARE) if words else 0.0


def _tokens(piece: str, foreign: float) -> float:
    if not piece.isascii():
        return _UNICODE_PIECE + sum(map(_character_tokens, piece))
    if piece[-1].isalpha():
        return _word_tokens(piece, foreign)
    if piece[-1].isdigit():
        return 1.0
    return _sign_tokens(piece.strip())


def _character_tokens(character: str) -> float:
    if character < "\u0080":
        return 0.0 if character == " " else _UNICODE_ASCII
    return _SCRIPTS[bisect(_STARTS, character) - 1][1]


def _word_tokens(piece: str, foreign: float) -> float:
    lead = "" if piece[0].isalpha() else piece[0]
    total, spaced = (_LEAD_RATE if lead.strip() else 0.0), lead == " "
    for word in _CASE.findall(piece):
        total += 1 + (1 - foreign) * _excess(len(word), *_ENGLISH[_case(word), spaced])
        total += foreign * _excess(len(word), *_FOREIGN)
        spaced = False
    return total


def _case(word: str) -> str:
    if word.islower():
        return "lower"
    return "upper" if word.isupper() else "title"


def _sign_tokens(signs: str) -> float:
    if len(set(signs)) < 2:
        return 1 + len(signs) * _RULE_RATE
    return 1 + _excess(len(signs), _SIGNS_FREE, _SIGN_RATE)


def _excess(length: int, free: int, rate: float) -> float:
    return rate * max(0, length - free)
