"""LogWriter: one line per record, whole lines only, nothing lost but what is counted, never an exception."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from log_lines import json_line
from log_writer import LogWriter
from security.redaction import Verbatim, make_redactor
from tests.readers import LONG, wait_until

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
KEY = "AI" + "za" + "Sy3xQ7" * 5
HOSTILE = {
    "line breaks": "a\r\n{'event': 'FORGED'}\n\n",
    "unicode line breaks": "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "terminal escapes": "\x1b[2J\x1b[1;1Hroot# \x9b2J\x7f\x08",
    "right-to-left marks": "abc\u202egnp.exe\u2066\u200f",
    "nul, quotes, backslashes": 'a\0b"c\\"d\\',
    "a lone surrogate": "a\ud800b\udfff",
    "64 KB": "x\n" * 32_768,
}


def parsed(path):
    return [json.loads(line) for line in Path(path).read_bytes().split(b"\n")[:-1]]


def whole_log(path):
    """The lines of a file and its backups; each must be JSON."""
    return [line for part in path.parent.glob(f"{path.name}*") for line in parsed(part)]


def in_parallel(work, threads=16):
    start = threading.Barrier(threads)

    def run(number):
        start.wait()
        work(number)

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.fixture
def writer():
    writer = LogWriter()
    yield writer
    writer.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "a.log"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, check=False)
    if not mounted or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


# One record, one line


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_one_line_of_printable_ascii(text):
    line = json_line({"path": text, text: "name"})
    assert line.endswith(b"\n")
    assert all(32 <= byte < 127 for byte in line[:-1])
    assert set(json.loads(line)) >= {"path"}


def test_hostile_text_is_unchanged_once_the_line_is_read():
    text = HOSTILE["unicode line breaks"] + HOSTILE["terminal escapes"]
    assert json.loads(json_line({"path": text}))["path"] == text


@pytest.mark.parametrize("text", ["x" * 5000, "ж" * 5000, "😀" * 5000, "x" * 100_000, "\n" * 3000])
def test_a_long_field_is_cut_to_2_kb_with_a_marker(text):
    field = json.loads(json_line({"field": text}))["field"]
    assert len(field.encode()) <= 2048
    assert field.endswith(f"...[cut, {len(text)} characters]")
    assert field[0] == text[0]


def test_secrets_leave_values_keys_and_nested_items():
    line = json_line({"a": f"x {KEY}", f"b {KEY}": 1, "c": {"d": [f"y {KEY}", {KEY: ValueError(KEY)}]}})
    assert KEY[:8].encode() not in line
    assert line.count(b"[redacted]") == 5


def test_a_secret_cut_in_two_by_the_limit_leaves_nothing():
    secret = "correct-horse-battery-staple"
    for start in range(16_384 - len(secret), 16_385):
        line = json_line({"a": ("short=1 " * 4000)[:start] + secret}, make_redactor([secret]))
        assert b"correct-" not in line


def test_verbatim_text_is_cut_but_not_redacted():
    assert json.loads(json_line({"prompt": Verbatim(KEY)}))["prompt"] == KEY
    assert len(json.loads(json_line({"prompt": Verbatim(KEY * 100)}))["prompt"]) <= 2048


def test_values_that_json_does_not_know_are_still_one_valid_line():
    endless: list = []
    endless.append(endless)
    record = {
        "nan": float("nan"),
        "big": 10**5000,
        "object": object,
        "set": {1},
        "bytes": b"\n",
        "endless": endless,
    }
    line = json_line(record)
    assert json.loads(line, parse_constant=pytest.fail)["nan"] == "nan"
    assert len(line) < 1000


# Files and threads


def test_construction_makes_no_file_and_no_thread(path):
    before = set(threading.enumerate())
    LogWriter().channel(path, MIB, 3)
    assert not set(threading.enumerate()) - before  # others may end meanwhile
    assert not path.parent.exists()


def test_the_file_exists_when_the_first_write_returns(writer, path):
    writer.channel(path, MIB, 3).write({"n": 1})
    assert path.exists()


def test_one_path_has_one_channel(writer, path):
    assert writer.channel(path, MIB, 3) is writer.channel(str(path.parent / "." / "a.log"), MIB, 3)


def test_flush_brings_everything_to_disk_in_order(writer, path):
    channel = writer.channel(path, MIB, 3)
    for number in range(1000):
        channel.write({"n": number})
    assert writer.flush()
    assert [record["n"] for record in parsed(path)] == list(range(1000))


def test_lines_reach_the_disk_without_flush(writer, path):
    writer.channel(path, MIB, 3).write({"n": 1})
    assert wait_until(lambda: path.stat().st_size)
    assert parsed(path) == [{"n": 1}]


def test_close_writes_what_is_queued_ends_the_thread_and_counts_what_comes_later(path):
    before = set(threading.enumerate())
    writer = LogWriter()
    channel = writer.channel(path, MIB, 3)
    for number in range(100):
        channel.write({"n": number})
    (thread,) = set(threading.enumerate()) - before
    writer.close()
    channel.write({"n": "late"})
    channel.write({"n": "late"}, must_keep=True)
    assert not thread.is_alive()
    assert len(parsed(path)) == 100
    assert (writer.dropped, writer.errors) == (2, 0)
    writer.close()


def test_an_idle_writer_holds_neither_thread_nor_file_and_wakes_for_the_next_line(path):
    before = set(threading.enumerate())
    writer = LogWriter(idle=0.01)
    channel = writer.channel(path, MIB, 3)
    for number in range(3):
        channel.write({"n": number})
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
            assert not thread.is_alive()
        held = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        assert str(path) not in held
    assert [record["n"] for record in parsed(path)] == [0, 1, 2]


def test_lines_queued_at_the_end_of_the_process_are_written(path):
    program = (
        "from log_writer import LogWriter\n"
        f"channel = LogWriter(linger=60).channel({str(path)!r}, 1 << 20, 3)\n"
        "for number in range(500): channel.write({'n': number})\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)
    assert len(parsed(path)) == 500


# Rotation


def test_rotation_under_load_loses_nothing_and_keeps_the_bounds(path):
    max_bytes, backups = 20_000, 100
    writer = LogWriter(linger=0.001)
    channel = writer.channel(path, max_bytes, backups)

    def work(number):
        for count in range(500):
            channel.write({"thread": number, "count": count, "pad": "x" * (count % 97)})

    in_parallel(work)
    writer.close()
    records = whole_log(path)
    assert Counter(record["thread"] for record in records) == dict.fromkeys(range(16), 500)
    parts = list(path.parent.glob("a.log*"))
    assert 5 < len(parts) <= backups + 1
    assert all(part.stat().st_size <= max_bytes for part in parts)
    assert (writer.dropped, writer.errors) == (0, 0)


def test_three_writers_of_one_path_rotate_it_together_and_lose_nothing(path):
    writers = [LogWriter(linger=0.001) for _ in range(3)]
    channels = [writer.channel(path, 20_000, 100) for writer in writers]
    in_parallel(
        lambda number: [channels[number % 3].write({"n": count, "x": "y" * 50}) for count in range(200)], 12
    )
    for writer in writers:
        writer.close()
    assert len(whole_log(path)) == 12 * 200
    assert all(part.stat().st_size <= 20_000 for part in path.parent.glob("a.log*"))


def test_no_more_than_the_backups_are_kept_and_the_newest_lines_are(writer, path):
    channel = writer.channel(path, 1000, 2)
    for number in range(1000):
        channel.write({"n": number})
    writer.flush()
    assert sorted(part.name for part in path.parent.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert parsed(path)[-1] == {"n": 999}
    assert all(part.stat().st_size <= 1000 for part in path.parent.iterdir())


def test_without_backups_the_file_starts_anew(writer, path):
    channel = writer.channel(path, 1000, 0)
    for number in range(1000):
        channel.write({"n": number})
    writer.flush()
    assert [part.name for part in path.parent.iterdir()] == ["a.log"]
    assert parsed(path)[-1] == {"n": 999}


def test_a_line_above_the_limit_is_written_alone(writer, path):
    channel = writer.channel(path, 500, 5)
    for pad in (10, 1500, 10):
        channel.write({"pad": "x" * pad})
    writer.flush()
    assert sorted(len(parsed(part)) for part in path.parent.iterdir()) == [1, 1, 1]


# A full queue


@pytest.fixture
def held(tmp_path):
    """A writer whose thread is busy with a line of another log until the gate is opened."""
    busy, gate = threading.Event(), threading.Event()

    def wait_at_the_gate(text):
        busy.set()
        gate.wait(30)
        return text

    writer = LogWriter(max_queue=10)
    writer.channel(tmp_path / "other.log", MIB, 3, redact=wait_at_the_gate).write({"text": "long enough"})
    assert busy.wait(LONG)
    yield writer, gate
    gate.set()
    writer.close()


def test_a_full_queue_drops_and_counts_each_line(held, path):
    writer, gate = held
    channel, other = writer.channel(path, MIB, 3), writer.channel(path.with_name("b.log"), MIB, 3)
    for number in range(15):
        channel.write({"n": number})
    other.write({"n": 0})
    assert (channel.dropped, other.dropped, writer.dropped) == (5, 1, 6)
    gate.set()
    writer.flush()
    assert [record["n"] for record in parsed(path)] == list(range(10))


def test_a_line_that_must_be_kept_is_written_at_once_when_the_queue_is_full(held, path):
    writer, _ = held
    channel = writer.channel(path, MIB, 3)
    for number in range(10):
        channel.write({"n": number})
    channel.write({"cost": 1}, must_keep=True)
    assert parsed(path) == [{"cost": 1}]
    assert writer.dropped == 0


def test_lines_that_must_be_kept_survive_any_load(path):
    writer = LogWriter(max_queue=1)
    channel = writer.channel(path, 50_000, 50)
    in_parallel(lambda number: [channel.write({"n": number}, must_keep=True) for _ in range(100)])
    writer.close()
    assert Counter(record["n"] for record in whole_log(path)) == dict.fromkeys(range(16), 100)
    assert writer.dropped == 0


def test_a_disk_that_hangs_holds_neither_callers_nor_flush_nor_close(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = LogWriter(max_queue=50, linger=0)
    channel = writer.channel(pipe, MIB, 3)
    written = 0
    while not channel.dropped:  # the pipe is full at 64 KB, then the queue
        channel.write({"pad": "x" * 1900})
        written += 1
        assert written < 100_000
    assert not writer.flush(timeout=0.05)
    writer.close(timeout=0.05)
    thread = writer._thread
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert thread is not None
    assert thread.is_alive()
    while thread.is_alive():
        try:
            os.read(reader, 65_536)
        except BlockingIOError:
            thread.join(0.01)
    os.close(reader)


# Failures


def test_a_failed_write_is_counted_and_never_raised(writer):
    channel = writer.channel("/dev/full", MIB, 3)
    for _ in range(3):
        channel.write({"n": 1})
    channel.write({"n": 1}, must_keep=True)
    writer.flush()
    assert channel.errors == 4
    assert channel.failing
    assert writer.failing


@pytest.mark.parametrize("place", ["/proc/no/such.log", "/dev/null/a.log", "/tmp/a\0b/c.log"])
def test_a_file_that_cannot_be_made_is_counted_and_never_raised(writer, place):
    channel = writer.channel(place, MIB, 3)
    channel.write({"n": 1})
    writer.flush()
    assert (channel.errors, channel.failing) == (1, True)


def test_a_value_that_cannot_be_written_costs_its_own_line_only(writer, path):
    class Mute:
        def __str__(self):
            raise RuntimeError

    channel = writer.channel(path, MIB, 3)
    for value in (1, Mute(), 3):
        channel.write({"n": value})
    writer.flush()
    assert [record["n"] for record in parsed(path)] == [1, 3]
    assert (channel.errors, channel.failing) == (1, False)


def test_on_a_full_disk_only_whole_lines_stay_and_logging_resumes_by_itself(writer, small_disk):
    path, ballast = small_disk / "a.log", small_disk / "ballast"
    channel = writer.channel(path, 10 * MIB, 3)
    ballast.write_bytes(b"x" * (MIB - 5 * 4096))
    for number in range(100):
        channel.write({"n": number, "pad": "x" * 777})
        writer.flush()
    assert channel.failing
    assert channel.errors > 50
    assert [record["n"] for record in parsed(path)] == list(range(100 - channel.errors))
    assert path.read_bytes().endswith(b"\n")
    ballast.unlink()
    channel.write({"n": "again"})
    writer.flush()
    assert parsed(path)[-1] == {"n": "again"}
    assert not channel.failing


def test_half_a_line_left_by_a_killed_process_is_cut_off(writer, path):
    path.parent.mkdir()
    path.write_text('{"n":1}\n{"n":2,"pad":"' + "x" * 200_000)
    writer.channel(path, MIB, 3).write({"n": 3})
    writer.flush()
    assert parsed(path) == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("remove", [lambda path: path.unlink(), lambda path: shutil.rmtree(path.parent)])
def test_a_deleted_file_or_folder_is_made_again(writer, path, remove):
    channel = writer.channel(path, MIB, 3)
    channel.write({"n": 1})
    writer.flush()
    remove(path)
    channel.write({"n": 2})
    writer.flush()
    assert parsed(path) == [{"n": 2}]
    assert writer.errors == 0


def test_a_file_moved_away_by_logrotate_is_left_alone(writer, path):
    channel = writer.channel(path, MIB, 3)
    channel.write({"n": 1})
    writer.flush()
    path.rename(path.with_name("old.log"))
    channel.write({"n": 2})
    writer.flush()
    assert (parsed(path.with_name("old.log")), parsed(path)) == ([{"n": 1}], [{"n": 2}])
