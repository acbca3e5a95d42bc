"""Where commands that change something sit down: the database, made if there is none, and the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from config import ConfigError, Settings
from enhanced_logging import RequestLogger
from log_writer import LogWriter
from security.guesses import Audit
from security.redaction import make_redactor
from store.db import ledger_url, migrate, open_engine
from store.frozen import PATIENCE_SECONDS
from store.patient import Patient

# The platform turns the pages of its logs; a second process that did so too could lose lines of the first.
NEVER_TURNED = 1 << 40


@contextmanager
def desk(settings: Settings, patience: float = PATIENCE_SECONDS) -> Iterator[tuple[Patient, Audit]]:
    try:
        url = ledger_url(settings.database_url, settings.data_dir)
    except ValueError as wrong:
        raise ConfigError(f"DATABASE_URL {wrong}.") from None
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()
    writer = LogWriter(redact=make_redactor(settings.secrets))
    logger = RequestLogger(settings.log_dir, writer=writer, max_bytes=NEVER_TURNED)
    database = Patient(url, lambda: None, patience)
    try:
        yield database, logger.log_security_event
    finally:
        database.close()
        logger.close()
        writer.close()
