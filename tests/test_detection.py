"""Attacks in the envelope are found under any disguise, ordinary requests never, and the time is linear."""

from urllib.parse import quote

import pytest

from security.detection import LIMIT, RULES, Envelope, canonical, detect, scan_text
from tests.linear import cpu_seconds, grows_linearly

SQL_ATTACKS = (
    "1' OR '1'='1", "1' OR 1=1--", "' or 1=1#", "admin'--", "admin' #", "admin'/*", "1 OR 1=1", "1) or (1=1",
    '" or ""="', "') or ('a'='a", "' or true--", "' || 1=1 --", "x' AND 1=2 UNION SELECT 1,2,3--",
    "1 UNION SELECT username, password FROM users", "-1 union all select null,null,null", "1 UnIoN/**/SeLeCt 1,2",
    "1/*!50000union*/ /*!50000select*/ 1,2", "1 union(select(1),2)", "1; DROP TABLE users", "1';delete from ledger;--",
    "1; exec xp_cmdshell('dir')", "x; update keys set role='admin'", "1; insert into users values(1)",
    "1' and sleep(5)--", "1 and benchmark(5000000,md5(1))", "1'; waitfor delay '0:0:5'--", "1 or pg_sleep(5)",
    "1 and (select count(*) from information_schema.tables)>0", "1 and ascii(substr(user(),1,1))>64",
    "1 and exists(select * from users)", "select @@version", "' and extractvalue(1,concat(0x7e,version()))--",
    "1 order by 10--", "1' group by 3#", "1 into outfile '/tmp/x'", "load_file('/x')", "char(97),char(98)",
    "(select case when 1=1 then 1 else 0 end)", "1 procedure analyse(extractvalue(1,1))", "1 having 1=1",
    "' union select 1 from sqlite_master where '1'='1", "1%27%20OR%201%3D1--", "1%2527 or 1=1--", "1&#39; or 1=1",
    "case when (1=1) then 1 end",
)  # fmt: skip
SQL_BENIGN = (
    "select a colour from the list", "the union selects a chairman", "a trade union and select members", "O'Reilly",
    "it's 5 or 6 o'clock", '"cats" or "dogs"', "rock 'n' roll", "order by price", "sort=name&order=asc", "drop table lamp",
    "update on the project", "delete from my list, please", "insert into the slot", "where is it", "a=1&b=2", "C# -- F#",
    "don't -- ever", "sleep well", "benchmark results", "concatenate two strings", "the database schema", "1 + 1 = 2",
    "name eq 'a' and age gt 5", 'project = "X" and status = "Done"', "Q1 and Q2 2026", "user_id=5;session=abc",
    "android or ios", "group by group", "case closed when done", "exec summary", "version 2.1 or later", "what's C#",
)  # fmt: skip
XSS_ATTACKS = (
    "<script>alert(1)</script>", "<ScRiPt src=//x.example/x.js>", "</script><script>x</script>", "< script >x",
    "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "<svg/onload=alert(1)>", '" onmouseover="x()',
    "' onfocus=x autofocus='", "<body onload=x()>", "<a href=javascript:alert(1)>x</a>", "javascript:alert(1)",
    "java\tscript:alert(1)", "JaVaScRiPt:alert(document.cookie)", "vbscript:msgbox(1)", "data:text/html,<b>x",
    "<iframe src=//x.example>", "<object data=x>", "<embed src=x>", "<base href=//x>", "<math><mtext></math>x<math >",
    "document.cookie", "window.location='//x'", "document['cookie']", "String.fromCharCode(88,83,83)", "x.innerHTML=y",
    "eval(atob('eA=='))", "setTimeout('x()')", "[].constructor.constructor('x')()", "alert`1`", "confirm(document.domain)",
    "x:expression(alert(1))", "<div style=-moz-binding:url(x)>", "<iframe srcdoc='x'>", "<link rel=x href=//x>",
    "%3Cscript%3Ealert(1)%3C/script%3E", "%253Cscript%253Ex", "&lt;script&gt;x", "&#60;script&#62;x",
    "&#x3c;script>x", "&#0000060script>x", "\\u003cscript\\u003ex", "\\x3cscript\\x3e", "<scr\0ipt>x", "<details open ontoggle=x>",
)  # fmt: skip
XSS_BENIGN = (
    "a < b and b > c", "I <3 scripts", "the script of the film", "javascript: the good parts", "learn JavaScript:", "on=1",
    "alert the team (now)", "prompt (noun): a cue", "confirm your address", "document your code", "location of the window",
    "a document. cookies are nice", "evaluate this", "iframe or object?", "image.png", "style=flat&color=red", "x=<none>",
    "online=true&only=1", "mailto:a@example.org", "data: see below", "AT&T", "fish & chips", "5 &lt; 6", "a -> b",
    "expression (maths)", "<user@example.org>", '<https://x.example>; rel="next"', "button=send", "form-action", "meta data",
)  # fmt: skip
TRAVERSAL_ATTACKS = (
    "../../etc/passwd", "..\\..\\windows\\win.ini", "/static/../../x", "file=../secret", "..%2f..%2fx", "%2e%2e%2fx",
    "%252e%252e%252fx", "..%c0%afx", "%c0%ae%c0%ae/x", "..%u2215x", "....//....//x", "..;/manager", "/a/b/..", "/etc/passwd",
    "//etc//shadow", "/proc/self/environ", "/var/log/auth.log", "/root/.ssh/id_rsa", "c:\\boot.ini",
    "c:/windows/system32/config", "\\windows\\system.ini", "/.git/config", "/.env", "/app/.env?x", "/.aws/credentials",
    "/.htpasswd", "/WEB-INF/web.xml", "/wp-config.php", "file:///x", "php://filter/convert.base64-encode/resource=x",
    "phar://x", "expect://id", "gopher://127.0.0.1:6379/_x", "/static../x", "..%00/x", "&#46;&#46;/x",
)  # fmt: skip
TRAVERSAL_BENIGN = (
    "/api/v1/generate/text", "/api/v1/health/ready", "/swagger/", "/swaggerui/swagger-ui.css", "/metrics", "/favicon.ico",
    "/.well-known/security.txt", "/docs/v1.2/index.html", "and so on...", "wait... what", "to be continued .. or not",
    "1..10", "a/b/c", "/environment", "/gitignore", "/x.git", "https://host.example/repo.git/info", "/etcetera/passwords",
    "/processes/self", "/variables/logs", "C:\\Users\\me\\notes.txt", "file:name", "php is fine", "range=0..5",
    "v1.../v2", "/a.b/c.d", "~/projects", "host.env.example", "the boot initiative", "2026/07/01",
)  # fmt: skip
AGENT_ATTACKS = (
    "sqlmap/1.7.2#stable (https://sqlmap.org)", "Mozilla/5.00 (Nikto/2.5.0)", "Nmap Scripting Engine", "masscan/1.3",
    "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)", "DirBuster-1.0-RC1", "gobuster/3.6", "WPScan v3.8",
    "Acunetix-Product", "BurpSuite Pro", "Burp/2024", "Mozilla/5.0 zgrab/0.x", "w3af.org", "Arachni/v1.5", "Havij",
    "Wfuzz/3.1.0", "Fuzz Faster U Fool v2.1", "ffuf/2.0", "feroxbuster/2.10", "dirsearch", "XSStrike", "commix/v3.8",
    "Mozilla/4.0 (Hydra) thc-hydra", "OpenVAS", "Nessus SOAP", "metasploit", "ZmEu", "OWASP ZAP", "WhatWeb/0.5", "jaeles",
    "HTTPX - github.com/projectdiscovery/httpx", "' or 1=1--", "<script>alert(1)</script>", "() ../../etc/passwd",
)  # fmt: skip
AGENT_BENIGN = (
    "", "curl/8.5.0", "Wget/1.21.4", "python-requests/2.32.3", "python-httpx/0.28.1", "Python-urllib/3.11", "aiohttp/3.10",
    "OpenAI/Python 1.68.2", "AsyncOpenAI/Python 2.3.0", "OpenAI/JS 4.52.0", "Anthropic/Python 0.40.0", "Go-http-client/2.0",
    "okhttp/4.12.0", "PostmanRuntime/7.42.0", "insomnia/10.0", "axios/1.7.7", "node-fetch/1.0", "undici", "Java/21.0.2",
    "Apache-HttpClient/5.3 (Java/17)", "Ruby", "Faraday v2.9", "GuzzleHttp/7", "reqwest/0.12", "Dart/3.4 (dart:io)",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "HTTPie/3.2.2", "kube-probe/1.30",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Mobile Safari/537.36",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Prometheus/2.53.0", "Grafana/11.1.0",
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36 Edg/126.0.2592.87",
    "langchain/0.3", "ELB-HealthChecker/2.0", "Blackbox Exporter/0.25", "k6/0.52.0 (https://k6.io/)", "vegeta 12",
)  # fmt: skip
HEADERS_BENIGN = (
    ("Accept", "*/*"), ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"),
    ("Accept", "text/*,application/json;q=0.9,*/*;q=0.1"), ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"), ("Content-Type", "application/json; charset=utf-8"),
    ("Content-Type", "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"), ("Content-Length", "42"),
    ("Host", "127.0.0.1:5000"), ("Connection", "keep-alive"), ("Cache-Control", "no-cache, max-age=0"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", "a=1,b=t61rcWkgMzE"),
    ("Cookie", "sid=QWxhZGRpbjpvcGVuIHNlc2FtZQ==; theme=dark; _ga=GA1.2.1234567890.1700000000; or=1; and=2"),
    ("Authorization", "Bearer " + "aB3-_x" * 30), ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
    ("Referer", "https://www.example.org/search?q=how+to+select+a+file+from+a+list&page=2#top"),
    ("Referer", "https://example.org/a/b.html?next=%2Fhome&x=it%27s"), ("Origin", "https://app.example.org"),
    ("If-None-Match", 'W/"5d8c72a5edda8d6a:3239", "abc--gzip"'), ("If-Modified-Since", "Wed, 01 Jul 2026 07:28:00 GMT"),
    ("Sec-CH-UA", '"Chromium";v="126", "Google Chrome";v="126", "Not/A)Brand";v="8"'), ("Sec-Fetch-Mode", "cors"),
    ("X-Forwarded-For", "203.0.113.7, 10.0.0.1"), ("X-Stainless-Runtime-Version", "3.11.7"), ("X-Stainless-OS", "Linux"),
    ("Forwarded", 'for="[2001:db8::1]:4711";proto=https'), ("Link", '<https://x.example/2>; rel="next"'),
    ("Idempotency-Key", "8e03978e-40d5-43dd-bc93-6894a57f9324"), ("Range", "bytes=0-1023"), ("DNT", "1"),
    ("Via", "1.1 vegur, 1.1 a (squid/4.1)"), ("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"),
)  # fmt: skip

ATTACKS = [
    *(("SQL_INJECTION", line) for line in SQL_ATTACKS),
    *(("XSS", line) for line in XSS_ATTACKS),
    *(("PATH_TRAVERSAL", line) for line in TRAVERSAL_ATTACKS),
]
BENIGN = [*SQL_BENIGN, *XSS_BENIGN, *TRAVERSAL_BENIGN]


def kinds(**envelope):
    return {finding.kind for finding in detect(Envelope(**envelope))}


@pytest.mark.parametrize(("kind", "line"), ATTACKS)
def test_an_attack_is_found_in_query_header_and_path(kind, line):
    assert kind in kinds(query=f"id={line}")
    assert kind in kinds(query=f"a=b&id={quote(line)}")
    assert kind in kinds(headers=[("Referer", line)])
    assert kind in kinds(path=line)


@pytest.mark.parametrize("line", BENIGN)
def test_an_ordinary_text_is_not_found_anywhere(line):
    envelope = Envelope(
        f"/{line.lstrip('/')}", f"q={quote(line)}", [("X-Note", line), ("Referer", line)], line
    )
    assert detect(envelope) == []


@pytest.mark.parametrize("agent", AGENT_ATTACKS)
def test_a_suspicious_agent_is_found_however_it_is_handed_in(agent):
    assert detect(Envelope(user_agent=agent))
    assert detect(Envelope(headers=[("USER-AGENT", agent)]))
    assert detect(Envelope(headers=[("User-Agent", agent)], user_agent=agent)) == detect(
        Envelope(user_agent=agent)
    )


@pytest.mark.parametrize("agent", AGENT_BENIGN)
def test_a_common_agent_is_never_suspicious(agent):
    assert detect(Envelope(user_agent=agent, headers=[("User-Agent", agent)])) == []


@pytest.mark.parametrize(("name", "value"), HEADERS_BENIGN)
def test_a_common_header_is_never_suspicious(name, value):
    assert detect(Envelope(headers=[(name, value)])) == []


def test_every_rule_has_an_attack_that_it_finds():
    lines = [line for _, line in ATTACKS]
    fired = {finding.rule for line in lines for finding in detect(Envelope(query=line))}
    fired |= {finding.rule for agent in AGENT_ATTACKS for finding in detect(Envelope(user_agent=agent))}
    assert {rule.id for rule in RULES} == fired


def test_every_class_has_twenty_attacks_and_twenty_ordinary_lines():
    assert min(map(len, (SQL_ATTACKS, XSS_ATTACKS, TRAVERSAL_ATTACKS, AGENT_ATTACKS))) >= 20
    assert min(map(len, (SQL_BENIGN, XSS_BENIGN, TRAVERSAL_BENIGN, AGENT_BENIGN, HEADERS_BENIGN))) >= 20


def test_rule_ids_are_unique():
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_a_finding_says_where_and_never_what():
    (finding, *_) = detect(Envelope(headers=[("X-" + "a" * 200, "<script>alert('S3CRET')</script>")]))
    assert finding.where == "header:x-" + "a" * 62
    assert "s3cret" not in repr(finding).lower()


def test_a_prompt_is_tagged_at_most_low():
    findings = scan_text("why does <script>alert(1)</script> and ' or 1=1-- work?", "body:prompt")
    assert {finding.kind for finding in findings} == {"SQL_INJECTION", "XSS"}
    assert {finding.severity for finding in findings} == {"LOW"}
    assert {finding.where for finding in findings} == {"body:prompt"}


def test_padding_within_what_the_server_takes_hides_nothing():
    assert "SQL_INJECTION" in kinds(query="a=" + "x" * (LIMIT - 100) + "&id=' or 1=1--")


@pytest.mark.parametrize("length", [4301, 16_000])
def test_a_huge_entity_breaks_nothing_and_hides_nothing(length):
    assert "XSS" in kinds(query=f"&#{'9' * length};<script>"[-LIMIT:])
    assert "XSS" in kinds(query=f"<script>&#{'9' * length};")
    assert "XSS" in kinds(query=f"<script>&#x{'f' * length};")


def test_four_encodings_are_one_more_than_is_undone():
    line = "<script>"
    for _ in range(3):
        line = quote(line)
    assert canonical(line) == "<script>"
    assert canonical(quote(line)) != "<script>"


def test_a_second_look_at_the_same_request_finds_the_same():
    envelope = Envelope("/../x", "id=' or 1=1--", [("A", "<script>")], "sqlmap")
    assert detect(envelope) == detect(envelope)
    assert {finding.where for finding in detect(envelope)} == {
        "path",
        "query",
        "header:a",
        "header:user-agent",
    }


SEEDS = (
    "a", " ", "'", '"', "(", ")", "<", "<a ", "<a on", "< ", "/", "../", "..", "....//", "/*", "/*!", "*/", "%", "%25", "&",
    "&#", "&#0", "\\", "\\x", "union ", "union select ", "union all(", "select ", "(select ", "select a,", "select a(",
    "' or ", "' or '", "' and 'a", "1 or 1", "or not ", ";", "; update a ", "; select a", "--", "' ;", "' limit ", "#",
    "sleep(", "waitfor ", "concat(", "char(1)", "into ", "1 order by 1", "case when ", "script:", "j a v a ", "javascript:a",
    "data:", "\"onclick=", "'onerror", "<img src", "<svg", "alert(", "document.", "document[", "location ", "constructor.",
    ": expression", "/etc/", "/etc//", "/proc/", "/a../", "c:", "file:", "|| ", "&&", "sqlmap", "burp", "=", ",", "\t", "\0",
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_takes_linear_time(rule):
    for seed in SEEDS:
        for prefix in ("", "'", "<a ", "select ", rule.needs[0]):
            text = (prefix + seed * 65_536)[:65_536]
            assert grows_linearly(rule.fires, text), (prefix, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hostile_request_takes_bounded_time(seed):
    text = (seed * 65_536)[:65_536]
    envelope = Envelope(text, text, [("A", text), ("B", text)], text)
    # All of it is about 8 ms on a slow core; a rule that is not linear takes seconds.
    assert cpu_seconds(detect, envelope) < 1


def test_taking_disguises_off_takes_linear_time_and_bounded_room():
    for seed in "% %25 %2525 & &# &#0 &lt; &#9 \\x3c /* /**/ /*! %c0%ae \0".split(" "):
        text = (seed * LIMIT)[:LIMIT]
        assert grows_linearly(canonical, text), seed
        assert len(canonical(text * 4)) <= LIMIT
