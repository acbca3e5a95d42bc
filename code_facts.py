"""Which language the code of an answer is in, and how many lines it has: by its fence, its prompt or its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from code_names import CLEAR, DATA, DOUBTFUL, HINTS, OTHER, THING, named_in
from code_shapes import DECISIVE, shape_of

# What only a fence says, beside all the names above.
TAGS = {
    "python": "py py3 python3 ipython pycon",
    "javascript": "node jsx mjs cjs",
    "typescript": "tsx",
    "cpp": "cc cxx hpp",
    "c": "h",
    "csharp": "cs",
    "rust": "rs",
    "ruby": "rb",
    "kotlin": "kt kts",
    "scala": "sc sbt",
    "bash": "sh ksh shell-session shellsession console",
    "powershell": "ps1",
    "html": "htm xhtml",
    "css": "sass less",
    "sql": "tsql plsql plpgsql pgsql",
    "json": "jsonc json5 jsonl",
    "dockerfile": "docker",
    "julia": "jl",
    "perl": "pl",
    "haskell": "hs",
    "elixir": "ex exs",
    OTHER: "fsharp objc objectivec lisp scheme vb asm assembly xml toml ini hcl tf proto vue svelte makefile cmake diff markdown md",
}
# Every name that there can be: what is made of it, labels of metrics too, stays bounded.
LANGUAGES = tuple(sorted({*CLEAR, *DOUBTFUL, *DATA}))
PROMPT_HEAD, PROMPT_TAIL, CODE_HEAD = 3000, 1000, 2000

_FENCE = re.compile(r" {0,3}```+[ \t]*\{?\.?([^\s`{},:]*)")


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """A name out of LANGUAGES, and the number of lines that are not blank."""

    language: str
    lines: int


def code_facts(prompt: str, reply: str) -> CodeFacts:
    """The facts of one code answer; the reply is best as the model gave it, with its fences."""
    blocks = list(_blocks(reply)) if "```" in reply else []
    if not blocks:
        blocks = [("", reply.split("\n"))]
    counts = [sum(1 for line in lines if line and not line.isspace()) for _, lines in blocks]
    tag, lines = blocks[counts.index(max(counts))]
    return CodeFacts(_tags().get(tag) or _judge(prompt, lines), sum(counts))


def _blocks(reply: str) -> Iterator[tuple[str, list[str]]]:
    """Tag and lines of each fenced block; one that is never closed goes to the end."""
    tag, inside = "", False
    lines: list[str] = []
    for line in reply.split("\n"):
        fence = _FENCE.match(line)
        if not inside and fence:
            tag, lines, inside = fence[1].lower(), [], True
        elif inside and fence and not fence[1]:
            yield tag, lines
            inside = False
        elif inside:
            lines.append(line)
    if inside:
        yield tag, lines


def _judge(prompt: str, lines: list[str]) -> str:
    """Without a fence: what the prompt asks for, else what the code looks like, else what the prompt mentions."""
    named, sure = named_in(_ends(prompt))
    if sure >= THING:
        return named
    shaped, points = shape_of("\n".join(lines)[:CODE_HEAD])
    return shaped if points >= DECISIVE else named or shaped or OTHER


def _ends(prompt: str) -> str:
    """Where people say what they want: before and after whatever they have pasted."""
    if len(prompt) <= PROMPT_HEAD + PROMPT_TAIL:
        return prompt
    return f"{prompt[:PROMPT_HEAD]}\n{prompt[-PROMPT_TAIL:]}"


@cache
def _tags() -> dict[str, str]:
    tables = (TAGS, HINTS, DATA, DOUBTFUL, CLEAR)
    return {
        name.replace("_", "-"): language
        for table in tables
        for language, names in table.items()
        for name in names.split()
    }
