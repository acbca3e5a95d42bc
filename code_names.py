"""Which language a prompt asks for: names of languages, and the words around them that tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

OTHER = "other"

# By what names a prompt calls a language. `_` stands for a space, a hyphen or nothing.
CLEAR = {
    "python": "python cpython",
    "javascript": "javascript java_script js node.js nodejs ecmascript",
    "typescript": "typescript ts",
    "java": "java",
    "cpp": "c++ cpp",
    "csharp": "c# csharp",
    "go": "golang",
    "php": "php",
    "kotlin": "kotlin",
    "bash": "shell_script zsh",
    "powershell": "powershell pwsh",
    "perl": "perl",
    "haskell": "haskell",
    OTHER: "fortran cobol pascal delphi f# objective_c ocaml clojure erlang prolog matlab groovy visual_basic vba vb.net "
    "zig nim solidity verilog vhdl terraform graphql latex",
}
# Words of every day, names of people, single letters: meant only where the words around them say so.
DOUBTFUL = {name: name for name in "c go rust ruby swift scala bash r julia lua elixir dart".split()} | {
    "bash": "bash shell"
}
# What programs read and write: meant only where it is what is asked for.
DATA = {
    "sql": "sql mysql postgresql postgres sqlite t_sql pl/sql",
    "html": "html html5",
    "css": "css css3 scss",
    "json": "json",
    "yaml": "yaml yml",
    "dockerfile": "dockerfile containerfile",
}
# Libraries that give a language away, unless the prompt names another.
HINTS = {
    "python": "pandas numpy django flask fastapi pytest pytorch sqlalchemy pygame tkinter discord.py",
    "javascript": "react express jquery vue next.js",
    "typescript": "angular nestjs",
    "java": "spring_boot",
    "csharp": ".net asp.net unity",
    "ruby": "rails",
    "php": "laravel wordpress symfony",
    "swift": "swiftui uikit",
    "dart": "flutter",
    "bash": "awk sed",
    "r": "ggplot2 dplyr tidyverse",
    "yaml": "docker_compose github_actions kubernetes helm ansible",
}
# How sure a prompt is: the target of a conversion, the language asked for, the thing asked for, a format, in passing.
TARGET, ASKED, THING, FORMAT, MENTION = 5, 4, 3, 2, 1
AROUND = 48  # characters before and after a name are read

_CODE = r"(?:function|program|script|code|class|method|module|snippet|struct|one[ -]?liner|header|game|package|crate|library|routine|macro|trait|interface|enum|implementation|solution|example|tests?|service|server|app|application|component|query|hook|decorator|generator|lambda|closure|goroutine|cmdlet|cli|tool|bot|api|type|statement|command)s?\b"
_BETWEEN = r"(?:(?!(?:in|for|of|that|to|which|and|with|from|or|interpreter|compiler|parser)\b)[\w-]+\s+){0,2}"
_WORDS = {
    # before a name
    "denied": r"(?i)\b(?:not|no|without|instead of|rather than|unlike|than|avoid|never|except)\s+(?:in |use |using )?\Z",
    "owned": r"(?i)(?:^|\s)(?:from|for|of|my|our|this|that|these|your|existing|given|following|calling|calls|running|runs|run)\s+(?:an?\s+|the\s+)?(?:\w+\s+)?\Z",
    "cued": r"(?i)(?:(?:^|[\s(,.;:])(?:(?:in|using|use|via|en|em|auf|на)\s+|language: ?)|[用以]|使用\s*)(?:(?:plain|pure|modern|idiomatic|vanilla|standard|simple|native|safe|the|language|programming|ansi|raw)\s+){0,2}\Z",
    "with": r"(?i)(?:^|\s)(?:with|mit|avec|con|by)\s+\Z",
    "role": r"(?i)\b(?:as|are|like)\s+an?\s+(?:\w+\s+)?\Z",
    "as": r"(?i)(?:^|\s)as\s+(?:an?\s+)?\Z",
    "to": r"(?i)(?:^|\s)(?:to|into)\s+(?:(?:plain|pure|modern|idiomatic|a|an)\s+){0,2}\Z",
    "wanted": r"(?i)(?:\A|\b(?:write|create|generate|make|give|provide|produce|need|want|show|build|draft|implement)\s+(?:(?:me|us|some|an?|the|valid|single|simple|small|short|minimal)\s+){0,3})\Z",
    # after it
    "direct": rf"(?i)(?:[\s-]?\d[\d.]*)?\s+{_BETWEEN}{_CODE}",
    "near": rf"\s+{_CODE}",
    "expert": r"(?i)\s+(?:developer|programmer|engineer|expert|coder)\b",
    "things": r"(?i)\s+(?:files?|source|sources|projects?|repositor\w+|developers?|strings?|code ?bases?|logs?|objects?)\b",
    "ends": r"(?i)\s*(?:\Z|[.,;:!?)\n]|(?:that|which|to|for|and|please|using|code|function|program|script)\b)",
    "open": r"(?i)\s*(?:\Z|[.,:\n]|(?:that|which|to|for)\b)",
    "not_c": r"\s*(?:(?:major|minor|sharp|flat)\b|(?:to|and|or) F\b)",
    "machine": r"(?i)\s+(?:parser|reader|writer|converter|formatter|validator|sani\w+|scraper|linter|editor|viewer|encoder|decoder|loader|client|orm|library|tokenizer|injection)\b",
    # far before it
    "converts": r"(?i)\b(?:conver|translat|port\b|rewrit|re-writ|migrat|transpil|turn\b|chang|transform|re-?implement)",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One name in a prompt, with what stands around it; `converted` where a conversion was asked for before."""

    language: str
    written: str
    before: str
    after: str
    converted: bool

    def behind(self, *words: str) -> bool:
        return any(_words(word).search(self.before) for word in words)

    def ahead(self, word: str) -> bool:
        return bool(_words(word).match(self.after))

    @property
    def is_target(self) -> bool:
        return self.converted and self.behind("to")

    @property
    def is_role(self) -> bool:
        """As in "you are an expert Ruby programmer"."""
        return self.behind("role") and self.ahead("expert")


def named_in(prompt: str) -> tuple[str, int]:
    """The language that the prompt is surest of, the first of several, and how sure it is; ("", 0) for none."""
    pattern, known = _names()
    converts = _words("converts").search(prompt)
    converted = converts.start() if converts else len(prompt)
    best, most = "", 0
    for found in pattern.finditer(prompt):
        kind, language = known[re.sub("[ -]", "", found[1].lower())]
        start, end = found.span()
        before, after = prompt[max(0, start - AROUND) : start], prompt[end : end + AROUND]
        sure = _sure(kind, Place(language, found[1], before, after, converted < start))
        if sure > most:
            best, most = language, sure
    return best, most


def _sure(kind: str, place: Place) -> int:
    if place.behind("denied") or place.after.startswith("-like"):
        return 0
    return {"clear": _clear, "doubtful": _doubtful, "data": _data, "hint": _hint}[kind](place)


def _clear(place: Place) -> int:
    if place.is_target:
        return TARGET
    if place.is_role:
        return ASKED
    if place.ahead("things"):  # it is asked about, as in "finds bugs in Python files"
        return MENTION
    asked = place.behind("cued", "with", "as") or (place.behind("wanted") and place.ahead("open"))
    return ASKED if asked or _direct(place) else MENTION


def _direct(place: Place) -> bool:
    return place.ahead("direct") and not place.behind("owned")


def _doubtful(place: Place) -> int:
    if place.after[:1] in tuple("'&^-") or (place.language == "c" and place.ahead("not_c")):
        return 0
    if place.written.islower():
        return _in_small_letters(place)
    if place.written.isupper() and len(place.written) > 1:
        return 0
    if place.is_target:
        return TARGET
    if place.is_role:
        return ASKED
    if place.ahead("things"):
        return 0
    if place.behind("cued"):
        return ASKED
    # "Go through a function" is no Go: nothing may stand between.
    if not place.ahead("near" if place.language == "go" else "direct"):
        return 0
    return MENTION if place.behind("owned") else ASKED


def _in_small_letters(place: Place) -> int:
    if place.ahead("near"):
        return ASKED
    if not place.ahead("ends"):
        return 0
    if place.is_target and place.language != "go":  # "change it and be ready to go"
        return TARGET
    return ASKED if place.behind("cued") else 0


def _data(place: Place) -> int:
    if place.behind("wanted") and not place.ahead("machine"):
        return THING
    return FORMAT if place.is_target or place.behind("cued", "as") else MENTION


def _hint(place: Place) -> int:
    return THING if place.behind("cued", "with", "wanted") or _direct(place) else 0


@cache
def _words(name: str) -> re.Pattern[str]:
    return re.compile(_WORDS[name])


@cache
def _names() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """One pattern for every name; and by name its kind and its language."""
    known = {
        name: (kind, language)
        for kind, table in (("hint", HINTS), ("data", DATA), ("doubtful", DOUBTFUL), ("clear", CLEAR))
        for language, names in table.items()
        for name in names.split()
    }
    longest_first = sorted(known, key=len, reverse=True)
    spelt = "|".join(re.escape(name).replace("_", "[ -]?") for name in longest_first)
    version = r"(?:(?<=[a-z]{3})\d{1,2}|(?<=c)(?:89|90|99|11|17|23)|(?<=\+)(?:11|14|17|20|23))?"
    pattern = rf"(?<![\w@/.\\-])({spelt}){version}(?![\w+#])"
    by_name = {name.replace("_", ""): found for name, found in known.items()}
    return re.compile(pattern, re.IGNORECASE | re.ASCII), by_name
