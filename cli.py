"""Commands for finance and operators: `python cli.py --help`. Each opens only what it needs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from commands import accounts, encryption, evaluate, ledger
from commands.terminal import Refused, tell
from config import ConfigError, load_settings
from errors import PlatformError
from store.refusals import refusal_of

FAILED, REFUSED = 1, 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all is well, 1 if not, 2 for wrong arguments, 78 for wrong settings."""
    chosen = parser().parse_args(arguments)
    try:
        return int(chosen.run(load_settings(), chosen))
    except ConfigError as wrong:
        return tell(f"Not started: {wrong}", REFUSED)
    except (Refused, PlatformError) as refusal:
        return tell(str(refusal), FAILED)
    except BrokenPipeError:  # whoever read it has seen enough; Python would complain when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (SQLAlchemyError, OSError) as failure:
        if wrong_address := refusal_of(failure):
            return tell(f"Not started: {wrong_address}", REFUSED)
        return tell(f"The ledger cannot be used ({type(failure).__name__}). Is its database there?", FAILED)
    except KeyboardInterrupt:
        return tell("Stopped; what was done so far stays done.", FAILED)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="cli.py", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    accounts.add_commands(commands)
    ledger.add_commands(commands)
    encryption.add_commands(commands)
    evaluate.add_command(commands)
    return whole


if __name__ == "__main__":
    sys.exit(main())
