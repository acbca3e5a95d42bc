"""Finds attacks in the envelope of a request, by rules that are data and run in linear time."""

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal
from urllib.parse import unquote

Kind = Literal["SQL_INJECTION", "XSS", "PATH_TRAVERSAL", "SUSPICIOUS_USER_AGENT"]
Severity = Literal["LOW", "MEDIUM", "HIGH"]

# The server takes at most 16 KB of request line and headers: within that, padding hides nothing.
LIMIT = 16_384
_REMEMBERED_LENGTH = 256
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key"})


@dataclass(frozen=True)
class Rule:
    """Fires where one of the words `needs` stands in the canonical text and `pattern`, if any, is found.

    Canonical text is lower case with single spaces. A pattern has bounded gaps only.
    """

    id: str
    kind: Kind
    severity: Severity
    needs: tuple[str, ...]
    pattern: str = ""

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def fires(self, text: str) -> bool:
        for word in self.needs:
            if word in text:
                return not self.pattern or self._compiled.search(text) is not None
        return False


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found and where (`path`, `query`, `header:referer`, `body:prompt`); never the text itself."""

    kind: Kind
    severity: Severity
    rule: str
    where: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds a prompt: all that a request says outside of its body."""

    path: str = ""
    query: str = ""
    headers: Iterable[tuple[str, str]] = ()
    user_agent: str = ""


_OPERATOR = r"(?:=|<|>|!=|like\b|rlike\b|regexp\b|is\b|in\b|between\b)"
_LOGIC = r"(?:\bor\b|\band\b|\bxor\b|\bhaving\b|\bwhere\b|\|\||&&)"

SQL_INJECTION = (
    Rule("sqli.union", "SQL_INJECTION", "HIGH", ("union",),
         r"\bunion[ (]{1,4}(?:all |distinct |all\()?[ (]{0,4}select\b.{0,80}?(?:\bfrom\b|\bnull\b|[\d@,('*])"),
    Rule("sqli.quoted_tautology", "SQL_INJECTION", "HIGH", ("'", '"'),
         rf"['\"]\){{0,3}} ?{_LOGIC} ?\(?(?:not )?(?:'[^']{{0,20}}'|\"[^\"]{{0,20}}\"|\d{{1,10}}) ?{_OPERATOR}"),
    Rule("sqli.quoted_truth", "SQL_INJECTION", "HIGH", ("'", '"'),
         rf"['\"]\){{0,3}} ?{_LOGIC} ?\(?(?:true|\d{{1,10}})\)? ?(?:$|--|#|;|/\*)"),
    Rule("sqli.numeric_tautology", "SQL_INJECTION", "HIGH", ("or", "and", "having", "where", "|", "&&"),
         rf"{_LOGIC} ?\(?(?:not )?\d{{1,10}}\)? ?(?:=|<|>|!=|like ) ?\(?\d"),
    Rule("sqli.logic_function", "SQL_INJECTION", "HIGH", ("and", "or", "||"),
         rf"{_LOGIC} ?\(?(?:not )?(?:exists|ascii|ord|substr|substring|mid|length|char_length|if|select) ?\("),
    Rule("sqli.comment_tail", "SQL_INJECTION", "HIGH", ("--", "#", "/*"),
         r"['\"]\){0,3} ?;? ?(?:--(?: |-|\+|$)|# ?$|/\*)"
         rf"|['\"]\){{0,3}} ?(?:;|{_LOGIC}|\bunion\b|\blimit\b)[^'\"]{{0,80}}(?:--|#) ?-?$"),
    Rule("sqli.stacked", "SQL_INJECTION", "HIGH", (";",),
         r"; ?(?:(?:drop|alter|create) (?:table|database|schema|user|view|login)\b|truncate table\b|insert into\b"
         r"|update \w{1,64} set\b|delete from\b|exec(?:ute)?(?: master| xp_| sp_|\()|shutdown(?: |;|$)|declare @"
         r"|waitfor delay\b|select (?:\*|pg_sleep|sleep|[\w.]{1,64} from\b))"),
    Rule("sqli.time", "SQL_INJECTION", "HIGH",
         ("sleep", "benchmark", "waitfor", "receive_message", "randomblob"),
         r"\b(?:sleep|pg_sleep|benchmark|dbms_lock\.sleep|dbms_pipe\.receive_message|randomblob) ?\( ?['\d(a-z]"
         r"|\bwaitfor (?:delay|time) ?['\"]"),
    Rule("sqli.schema", "SQL_INJECTION", "HIGH",
         ("information_schema", "sysobjects", "syscolumns", "sqlite_master", "pg_catalog.", "pg_shadow",
          "all_tab_columns", "@@version", "xp_cmdshell", "utl_http.", "utl_inaddr.", "mysql.user")),
    Rule("sqli.function", "SQL_INJECTION", "HIGH",
         ("load_file", "into outfile", "into dumpfile", "extractvalue", "updatexml", "group_concat", "concat",
          "char(", "chr(", "xmltype"),
         r"\b(?:load_file|extractvalue|updatexml|group_concat|xmltype) ?\(|\binto (?:out|dump)file\b"
         r"|\bconcat(?:_ws)? ?\( ?(?:0x|char|user|version|database|@@|'~)|\bcha?r\(\d{1,3}\) ?(?:,|\+|\|\|)"),
    Rule("sqli.select", "SQL_INJECTION", "HIGH", ("select",),
         r"\( ?select\b.{1,120}?\bfrom\b|\bselect (?:\*|[\w.]{1,64}(?: ?, ?[\w.]{1,64}){1,8}|[\w.]{1,64} ?\(.{0,40}?\))"
         r" ?from [\w.`\"\[]|\bselect (?:@@|user ?\(|version ?\(|database ?\(|null\b|\d{1,10} ?(?:--|,))"),
    Rule("sqli.order_by", "SQL_INJECTION", "MEDIUM", ("order by", "group by"),
         r"['\"\d)] ?\b(?:order|group) by \d{1,3} ?(?:--|#|,|$)"),
    Rule("sqli.case", "SQL_INJECTION", "MEDIUM", ("case when",), r"\bcase when\b.{1,80}?\bthen\b"),
)  # fmt: skip

_EVENTS = (
    "(?:error|load|mouse(?:over|enter|move|down|up|out)|click|dblclick|focus(?:in|out)?|blur|toggle|begin|end|start"
    "|change|input|submit|key(?:up|down|press)|animation\\w{2,9}|transition\\w{2,9}|pointer\\w{2,9}|wheel|copy|paste)"
)
XSS = (
    Rule("xss.script", "XSS", "HIGH", ("script",), r"< ?/? ?script\b"),
    Rule("xss.event", "XSS", "HIGH", ("on",),
         rf"<[a-z!?/][^<>]{{0,200}}?[ /\"'`]on[a-z]{{3,24}} ?=|[\"'`] ?/?on{_EVENTS} ?= ?[\"'`]?[a-z_$(\[]"),
    Rule("xss.script_uri", "XSS", "HIGH", (":",),
         r"(?:j ?a ?v ?a|v ?b|l ?i ?v ?e) ?s ?c ?r ?i ?p ?t ?: ?[^\s:]{0,60}[(\[=`/]|\bdata: ?text/html"),
    Rule("xss.active_tag", "XSS", "MEDIUM", ("<",),
         r"< ?(?:iframe|object|embed|applet|base|frameset|svg|math|marquee|isindex|meta|xml|template|dialog)[ />]"),
    Rule("xss.linked_tag", "XSS", "MEDIUM", ("<",),
         r"< ?(?:img|image|video|audio|source|input|link|form|button|body|a)[ /][^<>]{0,200}?"
         r"\b(?:src|srcset|href|action|formaction|poster|background|style) ?="),
    Rule("xss.dialog", "XSS", "HIGH", ("alert", "confirm", "prompt"),
         r"\b(?:alert|confirm|prompt)\)? ?[(`] ?(?:\d|['\"`/)]|document|window|origin|location|xss|string|self|this)"),
    Rule("xss.dom", "XSS", "HIGH", ("document", "window", "location", "fromcharcode", "innerhtml"),
         r"\bdocument(?:\.| ?\[['\"])(?:cookie|write|writeln|location|domain|body|documentelement)\b"
         r"|\b(?:window|self|top|parent)\.(?:location|name|open)\b|\blocation(?:\.href)? ?= ?['\"`]"
         r"|\bstring\.fromcharcode|\.innerhtml ?="),
    Rule("xss.eval", "XSS", "HIGH", ("eval", "settimeout", "setinterval", "constructor"),
         r"\b(?:eval|settimeout|setinterval) ?[(`] ?(?:atob|string|name|location|document|alert|['\"`])"
         r"|constructor(?:\.|\[['\"])constructor|\bconstructor ?\( ?['\"]"),
    Rule("xss.style", "XSS", "MEDIUM", ("expression", "-moz-binding", "srcdoc", "xlink:href"),
         r": ?expression ?\(|-moz-binding ?:|\bsrcdoc ?=|\bxlink:href ?="),
)  # fmt: skip

PATH_TRAVERSAL = (
    Rule("traversal.parent", "PATH_TRAVERSAL", "HIGH", ("..",),
         r"(?<![\w.])\.\.(?:[/\\]|;/)|[/\\=]\.\.$|\.\.[/\\]{1,4}\.\.|\.{3,4}[/\\]{1,4}\.{2,4}|(?:^|=)/\w{1,32}\.\./"),
    Rule("traversal.unix_file", "PATH_TRAVERSAL", "HIGH", ("/etc/", "/proc/", "/var/log/", "/root/", "/dev/"),
         r"/etc/{1,8}(?:passwd|shadow|hosts|group|issue|sudoers|crontab|fstab|mysql|apache2?|nginx|ssh)\b"
         r"|/proc/{1,8}(?:self|version|cmdline|\d{1,7})\b|/var/log/\w|/root/\.|/dev/(?:tcp|fd|stdin)\b"),
    Rule("traversal.windows_file", "PATH_TRAVERSAL", "HIGH",
         ("boot.ini", "win.ini", "system32", "\\windows\\", "c:/windows", "system.ini")),
    Rule("traversal.hidden_file", "PATH_TRAVERSAL", "HIGH",
         (".htpasswd", ".htaccess", ".git", ".svn", ".env", ".ssh", "id_rsa", ".aws", "web-inf", "wp-config",
          ".bash_history", ".ds_store"),
         r"\.ht(?:passwd|access)\b|(?:^|[/\\=])\.(?:git|svn|ssh|aws)[/\\]|(?:^|[/\\=])\.env(?:$|[.?&])|\bid_rsa\b"
         r"|web-inf[/\\]|wp-config\.php|\.bash_history|/\.ds_store"),
    Rule("traversal.wrapper", "PATH_TRAVERSAL", "HIGH",
         ("file:///", "php://", "phar://", "expect://", "zip://", "glob://", "gopher://", "dict://")),
)  # fmt: skip

_TOOLS = (
    "sqlmap", "nikto", "nuclei", "dirbuster", "gobuster", "wpscan", "acunetix", "burpsuite", "burp suite",
    "burpcollaborator", "netsparker", "nessus", "openvas", "w3af", "arachni", "havij", "wfuzz", "ffuf", "feroxbuster",
    "fuzz faster", "dirsearch", "skipfish", "xsstrike", "xsser", "commix", "thc-hydra", "jaeles", "sqlninja", "bsqlbf",
    "joomscan", "cmsmap", "droopescan", "metasploit", "zmeu", "webinspect", "fimap", "appscan", "owasp",
    "whatweb", "jorgee", "morfeus", "pangolin", "webshag", "n-stealth", "vega/1", "interactsh", "l9explore", "l9tcpid",
)  # fmt: skip
_MAPPERS = ("nmap", "masscan", "zgrab", "projectdiscovery", "censysinspect")

SUSPICIOUS_USER_AGENT = (
    Rule("agent.attack_tool", "SUSPICIOUS_USER_AGENT", "HIGH", _TOOLS),
    Rule("agent.burp", "SUSPICIOUS_USER_AGENT", "HIGH", ("burp",), r"\bburp\b"),
    Rule("agent.mapper", "SUSPICIOUS_USER_AGENT", "MEDIUM", _MAPPERS),
)

TEXT_RULES = (*SQL_INJECTION, *XSS, *PATH_TRAVERSAL)
RULES = (*TEXT_RULES, *SUSPICIOUS_USER_AGENT)

# One word without a space, a slash or a quote is no attack: keys, tokens, ids and digests end here.
_LONE_WORD = re.compile(r"(?:(?:Bearer|Basic) )?(?:eyJ[\w-]+\.[\w-]+\.[\w-]*|[\w~+=-]+)", re.ASCII)
_OVERLONG = re.compile(
    r"(?P<dot>%(?:c0%(?:ae|2e)|e0%80%ae|f0%80%80%ae|u002e))"
    r"|(?P<slash>%(?:c0%(?:af|2f)|e0%80%af|f0%80%80%af|u002f|u2215|u2216))|(?P<back>%(?:c1%9c|c1%5c|u005c))"
    r"|(?P<angle>%u003c)|(?P<quote>%u0027)"
)
_ENCODED = re.compile(r"%(?:[0-9a-f]{2}|u00|u22)")
_OVERLONG_MEANS = {"dot": ".", "slash": "/", "back": "\\", "angle": "<", "quote": "'"}
_ESCAPED = re.compile(r"\\(?:u00|u\{0{0,4}|x)([0-9a-f]{2})\}?")
_ENTITY_ZEROS = re.compile(r"(&#x?)0+(?=[0-9a-f])")
_ENTITY_TOO_LONG = re.compile(r"&#(?:[0-9]{8,}|x[0-9a-f]{8,});?")
_COMMENT = re.compile(r"/\*(?!!)[^*/]{0,64}\*/|/\*!\d{0,5}|\*/")  # the text in /*!...*/ is run by MySQL
_SPACES = re.compile(r"[\s\x00-\x1f]+")


def detect(envelope: Envelope) -> list[Finding]:
    """All findings in path, query and headers, at most one of a rule in each place."""
    found: list[Finding] = []
    room = LIMIT
    for where, surface, text, secret in _fields(envelope):
        text = text[:room]
        room -= len(text)
        if not text:
            continue
        keep = len(text) <= _REMEMBERED_LENGTH and not secret
        rules = _remembered(surface, text) if keep else _rules_firing(surface, text)
        found += [Finding(rule.kind, rule.severity, rule.id, where) for rule in rules]
    return found


def scan_text(text: str, where: str) -> list[Finding]:
    """What the same rules say of a prompt: a tag of severity LOW, since prompts may hold any text."""
    rules = _rules_firing("text", text[:LIMIT])
    return [Finding(rule.kind, "LOW", rule.id, where) for rule in rules]


def _fields(envelope: Envelope) -> Iterator[tuple[str, str, str, bool]]:
    """Where, which surface, the text, and whether it may hold a secret, which no memo may keep."""
    yield "path", "text", envelope.path, False
    yield "query", "query", envelope.query, True
    yield "header:user-agent", "agent", envelope.user_agent, False
    for name, value in envelope.headers:
        name = name.lower()
        if name != "user-agent":
            yield f"header:{name[:64]}", "text", value, name in SECRET_HEADERS
        elif value != envelope.user_agent:
            yield "header:user-agent", "agent", value, False


def _rules_firing(surface: str, text: str) -> tuple[Rule, ...]:
    if surface == "text" and _LONE_WORD.fullmatch(text):
        return ()
    plain = canonical(text.replace("+", " ") if surface == "query" else text)
    rules = RULES if surface == "agent" else TEXT_RULES
    return tuple(rule for rule in rules if rule.fires(plain))


_remembered = lru_cache(maxsize=2048)(_rules_firing)


def canonical(text: str) -> str:
    """What the text says once its disguises are off: encodings, entities, escapes, comments, case, NUL."""
    text = text[:LIMIT].lower()
    for _ in range(3):
        if _ENCODED.search(text) is None:
            break
        text = unquote(_OVERLONG.sub(_overlong_meaning, text)).lower()
    if "&" in text:
        text = html.unescape(_ENTITY_TOO_LONG.sub("", _ENTITY_ZEROS.sub(r"\1", text))).lower()
    if "\\" in text:
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text).lower()
    if "/*" in text:
        text = _COMMENT.sub(" ", text)
    return _SPACES.sub(" ", text.replace("\0", ""))


def _overlong_meaning(found: re.Match[str]) -> str:
    return _OVERLONG_MEANS[found.lastgroup or ""]
