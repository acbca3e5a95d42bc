"""Which language a piece of code looks like: a few marks of each, and the sum of their points."""

from __future__ import annotations

import re
from functools import cache

# Below ENOUGH points nothing is said; from DECISIVE on the code outweighs a mere mention in a prompt.
ENOUGH, DECISIVE = 2, 3

# Every pattern is read line by line and holds no two unbounded repetitions side by side: the time stays linear.
MARKS = {
    "python": (
        (3, r"^[ \t]*(?:async )?def \w+\(.*\)(?: ?-> ?[^:\n]+)?:"),
        (3, r"^from [\w.]+ import |^if __name__ == "),
        (2, r"^[ \t]*class \w+(?:\([\w., =]*\))?:"),
        (1, r"^import \w[\w.]*(?: as \w+)?$"),
        (2, r"^[ \t]*(?:for [\w, ()]+ in .+|with .+|try|elif .+|except.*|while .+|if [^({\n].*):(?:[ \t]*#.*)?$"),
        (1, r"\bprint\(|\bself\.|\bNone\b|^@\w+"),
    ),
    "javascript": (
        (2, r"^[ \t]*(?:export )?(?:default )?(?:async )?function\*? ?\w*\([\w, ={}\[\].]*\) \{"),
        (2, r"^[ \t]*(?:export )?(?:const|let|var) (?:\w+|\{[^}\n]*\}|\[[^\]\n]*\]) = "),
        (2, r"\bconsole\.\w+\(|\bdocument\.\w+|\bmodule\.exports\b|\brequire\(['\"]|\bwindow\.|===|^['\"]use strict"),
        (1, r"\) ?=> ?[{(]|\w => |\bfunction ?\("),
        (1, r"^import .* from ['\"]|\bawait \w|\bnew Promise\b|\btypeof \w|\bthis\.\w+ = "),
    ),
    "typescript": (
        (3, r"[\w)\]]\??: ?(?:string|number|boolean|void|any|unknown|never|Promise<[^>\n]*>)(?:\[\])?(?: ?[,;=){|]|$)"),
        (3, r"^[ \t]*(?:export )?(?:interface \w+(?:<[^>\n]*>)?(?: extends [\w, ]+)? \{|type \w+(?:<[^>\n]*>)? = )"),
        (3, r"^import type |\bas const\b|\b(?:private|public|readonly) \w+\??: \w|^declare |\benum \w+ \{[^;]*$"),
        (1, r"^(?:export )?(?:const|let|abstract class|class|async function|function) |^import .* from ['\"]"),
    ),
    "java": (
        (3, r"^[ \t]*(?:public|private|protected) (?:static |final |abstract |synchronized )*(?:class|interface|enum|record|void|int|boolean|String|long|double|List<|Map<)"),
        (3, r"\bSystem\.(?:out|err|in)\b|^import (?:static )?(?:java|javax|org|com)\.[\w.*]+;|\bString\[\] args\b"),
        (1, r"^package [\w.]+;|@Override\b|\bthrows \w+|\bnew \w+(?:<\w*>)?\(|\bfinal \w+"),
    ),
    "csharp": (
        (3, r"^[ \t]*using (?:static )?System\b|^namespace (?:\w+\.[\w.]+|\w+$)|\bConsole\.(?:Write|Read)\w*\("),
        (3, r"\{ get; (?:private |protected |init;|set;)|\bstatic (?:async )?(?:void|int|Task) Main\("),
        (2, r"^[ \t]*(?:public|private|internal|protected) (?:static |async |override |readonly |virtual |sealed |partial )*(?:string|bool|var|Task|IEnumerable|decimal|object)\b"),
        (1, r"^[ \t]*(?:public|private|internal|protected) (?:static |sealed |partial |abstract )*(?:class|record|struct|interface|void|int)\b|\bvar \w+ = |\bforeach \("),
    ),
    "cpp": (
        (4, r"^[ \t]*#[ \t]*include <(?:iostream|vector|string|map|memory|algorithm|unordered_map|functional|utility|c\w+|[a-z_]+)>"),
        (4, r"\bstd::|\bcout <<|\bcin >>|^[ \t]*template ?<|\busing namespace \w+;"),
        (2, r"^[ \t]*(?:public|private|protected):|\bclass \w+(?: final)?(?: : (?:public|private) \w+)? \{|\w+::\w+\(|\bnullptr\b|\btypename \w|^namespace(?: \w+)? \{|^#pragma once|\bauto \w+ = |\bconst \w+& "),
    ),
    "c": (
        (3, r"^[ \t]*#[ \t]*include [<\"][\w/.-]+\.h[>\"]|^[ \t]*#[ \t]*(?:define|ifdef|ifndef|endif)\b"),
        (2, r"^(?:static |extern |const |unsigned |inline )*(?:int|void|char|double|float|long|size_t|struct \w+|bool|u?int\d+_t) \**\w+\([^;{}]*\)(?: ?\{|$)"),
        (1, r"\b(?:printf|malloc|free|sizeof|strlen|memcpy)\(|\w+->\w+|\bchar ?\*|\bNULL\b"),
    ),
    "go": (
        (4, r"^package \w+$|^func (?:\(\w+ \*?[\w\[\]]+\) )?\w+(?:\[[^\]\n]*\])?\(.*\{$"),
        (2, r"\bfmt\.\w+\(|\berr != nil\b|^import (?:\($|\")|^type \w+ (?:struct|interface) \{|\bchan \w|\bgo func\b"),
        (1, r"\w :=|\bdefer \w|\bmake\("),
    ),
    "rust": (
        (4, r"^[ \t]*(?:pub(?:\(\w+\))? )?(?:async |unsafe |const )*fn \w+(?:<[^>\n]*>)?\(.*"),
        (3, r"\blet mut \w|\bprintln!\(|^use (?:std|crate|super|serde|tokio)\b|^[ \t]*impl(?:<[^>\n]*>)? \w|^[ \t]*#!?\[\w+"),
        (1, r"&mut |&str\b|\bSome\(|\bOk\(|\.unwrap\(\)|\bmatch \w.* \{|\bu(?:8|32|64|size)\b|^[ \t]*pub (?:struct|enum|mod) "),
    ),
    "ruby": (
        (3, r"^[ \t]*def (?:self\.)?\w+[?!]?(?:\([^:\n]*\))?$|\bdo \|[\w, ]+\|$|\.each(?:_\w+)? (?:do|\{)"),
        (2, r"^require(?:_relative)? ['\"]|^[ \t]*attr_\w+ :|^[ \t]*puts\b|^[ \t]*(?:module|class) [A-Z]\w*(?:::\w+)*(?: < [\w:]+)?$"),
        (1, r"^[ \t]*end$|@\w+ = |\{ ?\|\w+\||\bunless\b|\bnil\b|\w\.\w+\?"),
    ),
    "php": ((9, r"<\?(?:php\b|=)"), (2, r"\$this->\w|^[ \t]*(?:public |private |protected |static )*function \w+\(.*\$\w|^[ \t]*echo .*;$|\$_(?:GET|POST|SERVER)\b"), (1, r"^[ \t]*\$\w+ = .*;$")),
    "swift": (
        (4, r"^import (?:Foundation|UIKit|SwiftUI|Combine|AppKit)$|\bguard let \w|\bif let \w+ = "),
        (3, r"^[ \t]*(?:public |private |static |override |mutating |@\w+ )*func \w+(?:<[^>\n]*>)?\(.*\)(?: (?:async )?(?:throws )?-> [\w\[\]?: ]+)? \{$"),
        (1, r"^[ \t]*(?:let|var) \w+(?:: \[?\w+\]?\??)?(?: = |$)|\bstruct \w+(?:: \w+)? \{|\bself\.\w|\bnil\b"),
    ),
    "kotlin": (
        (4, r"^[ \t]*(?:(?:private|override|suspend|inline|internal|public|operator) )*fun (?:<[^>\n]*> )?(?:\w+\.)?\w+\("),
        (2, r"^[ \t]*(?:private )?va[lr] \w+(?:: [\w<>?, ]+)? (?:=|by) |\bdata class \w+\(|\bprintln\(.*\)$|\bwhen ?(?:\(\w+\) )?\{|\blistOf\("),
    ),
    "scala": (
        (4, r"^[ \t]*(?:override |private )*def \w+(?:\[[^\]\n]*\])?(?:\([^()\n]*\)){0,5}(?:: [\w\[\], ()]+)? =|\bextends App\b|^import scala\."),
        (3, r"\bcase class \w+\(|^(?:case )?object \w+|\btrait \w+|^[ \t]*case .* => "),
        (1, r"^[ \t]*va[lr] \w+(?:: [\w\[\], ]+)? = |\bmatch \{|\bimplicit\b"),
    ),
    "sql": (
        (4, r"(?i)^[ \t]*(?:insert into [\w.`\"]|create (?:or replace )?(?:temp |unique |materialized )?(?:table|view|index|function|procedure|database|type|trigger|role|schema|extension|operator|cast)\b|alter (?:table|type|extension|function|role|database)\b|drop (?:table|view|index|function|database|type)\b|delete from \w|with (?:recursive )?\w+ as \(|merge into \w|grant \w.* (?:on|to) )"),
        (3, r"(?i)\A\s{0,99}(?:--.*\n\s{0,99}){0,9}(?:select\s|update [\w.\"`]+\s+set\s|begin;|explain\s)"),
        (2, r"(?i)^[ \t]*(?:from [\w.\"]+(?: \w+)?|where .+|group by .+|order by .+|(?:left |inner )?join .+ on .+|values ?\(.*)[;,]?$"),
    ),
    "bash": (
        (9, r"\A#!.*\b(?:ba|z|da|k)?sh\b"),
        (3, r"^[ \t]*(?:fi|done|esac)(?:$|[ ;|<>&])|^[ \t]*if \[\[? .+ \]\]?; ?then|^[ \t]*(?:function )?\w+\(\) \{$"),
        (2, r"\"?\$\{?[\w@#*?!]+\}?\"?(?:$|[ ;/])|\$\(\w|^[ \t]*(?:echo|export|source|set -\w|sudo|apt-get|curl|grep|find|tar|rsync|mkdir|cd|awk|sed|docker|kubectl|git|npm|pip3?|chmod|rm -) ?"),
        (1, r" \| (?:grep|awk|sed|sort|head|xargs|wc|cut)\b|^[A-Z_]+=\S"),
    ),
    "powershell": (
        (4, r"\b(?:Get|Set|New|Remove|Write|Select|Where|ForEach|Import|Export|Invoke|Test|Start|Stop|Add|Sort|Out|ConvertTo|Copy|Join)-[A-Z]\w+"),
        (2, r"(?i)^[ \t]*param ?\(|^\[cmdletbinding|\$_\.\w|\$env:\w| -(?:eq|ne|gt|lt|like|match) "),
        (1, r"^[ \t]*\$\w+ = [^;]*$"),
    ),
    "html": (
        (5, r"(?i)<!doctype html|<html\b"),
        (3, r"(?i)\A\s{0,99}<(?!\?)(?:!--|[a-z][\w-]*[\s/>])"),
        (2, r"(?i)</(?:div|p|ul|li|form|table|span|body|head|section|button|a|h\d)>"),
    ),
    "css": (
        (4, r"^[ \t]*(?:@media .*|:root|[.#]?[a-z][\w-]*(?:[ ,.:>#\[][^;{}()=\n]*)?|\*|[.#@:][^;{}()=\n]+) ?\{\s{0,20}(?:/\*.*\*/\s{0,20})?[a-z-]+ ?:[^:\n{}]+;"),
        (2, r"^[ \t]*(?:display|color|margin|padding|font-\w+|background(?:-\w+)?|border(?:-\w+)?|width|height|position|--[\w-]+): ?[^{}\n]+;$"),
    ),
    "r": (
        (4, r"<- ?function\(|%>%|^library\(\w+\)|\bggplot\(|\bdata\.frame\("),
        (2, r"^[ \t]*[\w.]+ <- "),
        (1, r"\bc\(|\bTRUE\b|\|>|\w\$\w"),
    ),
    "julia": (
        (3, r"^[ \t]*function \w+!?(?:\{[^}\n]*\})?\(.*\)(?:::[\w{}]+)?(?: where .*)?$|^using [A-Z]\w+|::(?:Int|Float64|Vector|String|AbstractVector)"),
        (2, r"^[ \t]*(?:println|@\w+)\b|^[ \t]*(?:mutable )?struct \w+(?: <: \w+)?$|^\w+!?\([\w, ]*\) = "),
        (1, r"^[ \t]*end$|^[ \t]*for \w+ (?:in|=) \w+:\w+$"),
    ),
    "lua": (
        (4, r"^[ \t]*local (?:function )?\w[\w, ]*(?: = |\(|$)|^[ \t]*function \w+[.:]\w+\("),
        (2, r"\bthen$|~=|\bipairs\(|\bpairs\(| \.\. |^--\[\["),
        (1, r"^[ \t]*end[,)]?$|^[ \t]*return \w+$|\bnil\b"),
    ),
    "perl": (
        (9, r"\A#!.*\bperl"),
        (4, r"^use (?:strict|warnings)|^[ \t]*my [$@%(]|^package [\w:]+;|^=(?:head\d|pod|cut)\b"),
        (2, r"^[ \t]*sub \w+(?: \{|$)|\$\w+->\{|=~ ?[ms]?/|@_\b|\bqw\("),
    ),
    "haskell": (
        (4, r"^[a-z]\w*'? :: .*|^module [\w.]+(?: \(.*)? where|^import qualified |^\{-# LANGUAGE|^data \w+[ \w]* = |^newtype |^instance \w.* where$"),
        (1, r"^import [A-Z][\w.]*(?: \(.*\))?$| -> | <- |\bwhere$|\bcase \w.* of$"),
    ),
    "elixir": (
        (5, r"^[ \t]*defmodule [\w.]+ do$"),
        (3, r"^[ \t]*defp? \w+[?!]?(?:\(.*\))?(?: when .*)?(?: do$|, do: )|\bIO\.puts\b|\|> (?:Enum|String|Map)\."),
        (1, r"^[ \t]*end$|\{:(?:ok|error), |%\{|\bfn .* -> "),
    ),
    "dart": (
        (5, r"^import ['\"](?:dart|package):|\bextends State(?:less|ful)Widget\b|\bWidget build\("),
        (2, r"^void main\(\) (?:async )?\{|\bFuture<\w*>|\blate \w|^[ \t]*final \w+(?:<[^>\n]*>)? \w+(?: =|;)|\brequired this\."),
        (1, r"^[ \t]*print\(.*\);$|\bvar \w+ = "),
    ),
    "json": ((9, r"\A\s{0,99}(?:\{\s{0,99}(?:\}\s{0,99}\Z|\"[^\"\n]{0,200}\"\s{0,9}:)|\[\s{0,99}(?:\]|[{\[\"\d]|null|true|false)[^\n=;]*(?:\n|\Z))"),),
    "yaml": (
        (4, r"\A\s{0,99}(?:#.*\n\s{0,99}){0,30}(?:---[ \t]*\n)|^(?:apiVersion|services|version|jobs|stages): ?(?:[\w./\"'-]+)?$"),
        (4, r"\A(?:[ \t]*#.*\n|[ \t]*\n){0,30}(?:- )?[\w.$\"'-]+:(?: [^{;\n]*)?\n(?:[ \t]*#.*\n|[ \t]*\n){0,9}[ \t]*(?:- .*|[\w.$\"'-]+:(?: [^;\n]*)?)(?:\n|\Z)"),
        (1, r"^[ \t]+- (?:\w+: )?[\w./\"'-]+$|^[ \t]+\w+: [^;{\n]+$"),
    ),
    "dockerfile": (
        (4, r"^FROM [\w./:${}@-]+(?: AS \w+)?$"),
        (2, r"^(?:RUN|COPY|ADD|CMD|ENTRYPOINT|WORKDIR|EXPOSE|ENV|USER|ARG) \S"),
    ),
}  # fmt: skip


def shape_of(code: str) -> tuple[str, int]:
    """The language with the most points, and the points; an empty name where they are too few."""
    scores = {
        language: sum(points for points, mark in marks if mark.search(code))
        for language, marks in _marks().items()
    }
    best = max(scores, key=scores.__getitem__)
    return (best, scores[best]) if scores[best] >= ENOUGH else ("", 0)


@cache
def _marks() -> dict[str, tuple[tuple[int, re.Pattern[str]], ...]]:
    """Compiled when first needed: it takes a tenth of a second, which an import must not."""
    flags = re.MULTILINE | re.ASCII
    return {
        language: tuple((points, re.compile(mark, flags)) for points, mark in marks)
        for language, marks in MARKS.items()
    }
