"""The token estimate stays near the true counts of cl100k_base, which were computed once and stand here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.prime_tokenizer import CACHE_NAME, DIGEST, PrimingError, is_primed, prime, unpack
from tests.linear import grows_linearly
from token_estimate import estimate_tokens

ROOT = Path(__file__).resolve().parent.parent
MEAN_BOUND, SAMPLE_BOUND = 0.08, 0.40
KIB = 1024

SAMPLES = [
    (10, "Summarise the attached report in three sentences."),
    (7, "What is the capital of France?"),
    (14, "Write a Python function that returns the n-th Fibonacci number without recursion."),
    (
        33,
        "The delivery arrived two days late and the box was damaged, but the support team answered within minutes "
        "and sent a replacement the same afternoon. I would order here again.",
    ),
    (
        54,
        "Dear Ms Okafor,\n\nthank you for your letter of 12 March. We have checked invoice 20458 and found that "
        "item 3 was charged twice; the difference of EUR 149.90 will be refunded within five working days.\n\n"
        "Kind regards,\nCustomer Service",
    ),
    (
        28,
        'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT '
        "LIMITED TO THE WARRANTIES OF MERCHANTABILITY.",
    ),
    (
        27,
        'def area(radius: float) -> float:\n    """The area of a circle."""\n    return math.pi * radius ** 2\n',
    ),
    (
        37,
        "for (const item of cart.items) {\n  total += item.unitPrice * item.quantity;\n"
        "  if (total > limit) throw new Error(`limit exceeded: ${total}`);\n}\n",
    ),
    (
        35,
        "SELECT customer_id, SUM(amount) AS spent FROM orders WHERE created_at >= '2026-01-01' "
        "GROUP BY customer_id ORDER BY spent DESC LIMIT 10;",
    ),
    (37, '{"id": 48213, "name": "Blue lamp", "price": 24.5, "tags": ["light", "home"], "in_stock": true}'),
    (33, "2026-11-22 10:15:03,481 WARNING gateway.chain provider=gemini attempt=2 status=503 wait=1.7s"),
    (20, "1024 2048 4096 8192 16384 32768 65536"),
    (40, "| model | input | output |\n|---|---|---|\n| small | 0.10 | 0.40 |\n| large | 1.25 | 10.00 |\n"),
    (11, "getUserProfileById(session.currentUserId, includeDeleted=False)"),
    (24, "https://example.com/articles/2026/11/how-to-read-a-bill?ref=newsletter&page=2"),
    (19, "Bitte fassen Sie das Gespräch kurz zusammen und nennen Sie die nächsten Schritte."),
    (20, "Pouvez-vous résumer ce texte en trois phrases et indiquer les chiffres importants ?"),
    (16, "Resume este texto en tres frases y señala las cifras más importantes."),
    (31, "Пожалуйста, кратко изложите этот отчёт и назовите главные цифры."),
    (16, "请把下面的报告总结成三句话。"),
    (17, "この報告書を三つの文で要約してください。"),
    (17, "이 보고서를 세 문장으로 요약해 주세요."),
    (20, "لخص هذا التقرير في ثلاث جمل."),
    (15, "Thanks a lot! 🎉👍 See you on Monday."),
]


def error(true: int, text: str) -> float:
    return abs(estimate_tokens(text) - true) / true


@pytest.mark.parametrize(("true", "text"), SAMPLES)
def test_each_sample_is_within_the_stated_bound(true, text):
    assert error(true, text) <= SAMPLE_BOUND


def test_the_mean_error_is_within_the_stated_bound():
    assert sum(error(true, text) for true, text in SAMPLES) / len(SAMPLES) <= MEAN_BOUND


def test_the_estimate_beats_a_quarter_of_the_characters():
    naive = sum(abs(len(text) / 4 - true) / true for true, text in SAMPLES) / len(SAMPLES)
    assert sum(error(true, text) for true, text in SAMPLES) / len(SAMPLES) < naive / 3


def test_a_text_without_english_words_is_not_counted_as_english():
    indonesian = (
        "Pesanan Anda sudah kami terima dan akan dikirim besok pagi. Jika barang belum sampai dalam tiga hari, "
        "silakan hubungi layanan pelanggan dengan menyebutkan nomor pesanan yang tertera di bawah ini."
    )
    assert error(52, indonesian) <= 0.25


def test_empty_text_has_no_tokens_and_any_other_at_least_one():
    assert estimate_tokens("") == 0
    for text in (" ", "\n", "a", "7", ".", "é", "中", "🎉", "\u0301", "\x00", "½", "٣"):
        assert estimate_tokens(text) >= 1


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\ud83c\ud83c", "\U0010ffff\ufffe"])
def test_lone_surrogates_are_counted_not_refused(text):
    assert estimate_tokens(text) >= 1


def test_more_of_the_same_text_means_more_tokens():
    for _, text in SAMPLES:
        once, twice, ten = (estimate_tokens(f"{text}\n" * times) for times in (1, 2, 10))
        assert once < twice < ten
        assert 8 * once <= ten <= 12 * once


def test_a_text_is_never_cheaper_than_one_of_its_words():
    for _, text in SAMPLES:
        assert estimate_tokens(text) >= max(map(estimate_tokens, text.split()))


ADVERSARIAL = [
    *("a", " ", "\n", "🎉", "(", "_", "1", "é", "中", "\u0301", "\ud800", "٣"),
    *("aB", "AAa", " a", ".a", "!?", "_(", " \n", "\t ", ",\r", "' ", "a1", "\n  x"),
]


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_doubling_the_text_at_most_doubles_and_a_half_the_time(unit):
    # A quadratic pattern would take minutes here.
    assert grows_linearly(estimate_tokens, (unit * 512 * KIB)[: 512 * KIB])


# -- the tokenizer file, as far as it goes without a network


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_packed_ranks_become_lines_of_token_and_rank():
    source = r'export default {"pat_str":"x\"y","bpe_ranks":"! 0 IQ== Ig==\n! 5 Iw=="};'
    assert unpack(source) == b"IQ== 0\nIg== 1\nIw== 5\n"


@pytest.mark.parametrize(
    "source", ["", '{"bpe_ranks":"x"}', '{"bpe_ranks":"! one IQ=="}', '{"bpe_ranks":"! 0 IQ=="}']
)
def test_wrong_ranks_leave_no_file_behind(tmp_path, source):
    with pytest.raises(PrimingError):
        prime(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_right_content_counts_as_primed(tmp_path):
    assert not is_primed(tmp_path)
    (tmp_path / CACHE_NAME).write_bytes(b"IQ== 0\n")
    assert not is_primed(tmp_path)


def test_name_and_digest_are_those_that_tiktoken_demands():
    import inspect
    import re
    from hashlib import sha1

    from tiktoken_ext import openai_public

    source = inspect.getsource(openai_public.cl100k_base)
    address = re.search(r'"(https://\S+cl100k_base\.tiktoken)"', source)[1]
    assert sha1(address.encode()).hexdigest() == CACHE_NAME
    assert f'expected_hash="{DIGEST}"' in source


def test_without_npm_one_sentence_says_what_to_do(tmp_path):
    done = run("prime_tokenizer.py", "--out", str(tmp_path / "out"), PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("npm is missing, install it or pass the ranks with --from FILE.js.")
    assert not (tmp_path / "out").exists()


def test_the_benchmark_says_when_the_tokenizer_file_is_missing(tmp_path):
    done = run("token_estimate.py", TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "run `make tokenizer` first" in done.stderr
