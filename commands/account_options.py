"""What the commands of accounts take from the command line."""

from __future__ import annotations

import argparse

import account_rules
from commands.terminal import Refused
from errors import InvalidInput
from identity import MONTH, PERIODS, Budget, Role, Scope
from store.accounts import FIRST_ORGANISATION

LONGEST_DAYS, LONGEST_GRACE_HOURS = 3650, 168

# Plain texts: a refusal lists them.
ROLES = [role.value for role in Role]

Command = argparse.ArgumentParser


def admin_command(command: Command) -> None:
    command.add_argument("--name", default="admin", help="the name to sign in with (admin)")
    _organisation_option(command)


def organisation_command(command: Command) -> None:
    command.add_argument("--name", required=True)
    _budget_options(command)


def lock_command(command: Command) -> None:
    command.add_argument("name", metavar="NAME", help="its name or id")
    command.add_argument(
        "--active",
        choices=("yes", "no"),
        required=True,
        help="no: none of its keys, users and tokens is served",
    )


def user_command(command: Command) -> None:
    command.add_argument("--name", required=True, help="the name to sign in with")
    command.add_argument("--role", choices=ROLES, required=True)
    command.add_argument("--no-password", action="store_true", help="they have keys, and do not sign in")
    _organisation_option(command)
    _budget_options(command)


def change_command(command: Command) -> None:
    command.add_argument("name", metavar="NAME")
    command.add_argument("--role", choices=ROLES)
    command.add_argument("--password", action="store_true", help="ask for a new password")
    command.add_argument("--active", choices=("yes", "no"), help="no: neither they nor their keys are served")


def key_command(command: Command) -> None:
    command.add_argument("--name", required=True, help="what the key is for")
    command.add_argument("--role", choices=ROLES, required=True)
    command.add_argument("--user", help="the name of the user whose key it is; else it stands by itself")
    command.add_argument(
        "--scopes", type=_names, default=[], help=f"some of {','.join(Scope)}; else all of the role"
    )
    command.add_argument("--models", type=_names, default=[], help="allowed models, with commas; else any")
    command.add_argument("--expires-days", type=_days, help="it ends after so many days; else it does not")
    command.add_argument("--rate-limit", default="", help="such as `100 per minute`; else the platform's")
    _organisation_option(command)
    _budget_options(command)


def rotate_command(command: Command) -> None:
    command.add_argument("id", metavar="ID")
    command.add_argument(
        "--grace-hours", type=_hours, default=24, help="how long the old secret stays good (24)"
    )


def budget_command(command: Command) -> None:
    command.add_argument("owner", metavar="OWNER", help="key:ID, user:NAME or organisation:NAME")
    command.add_argument("--none", action="store_true", help="no budget any more")
    _budget_options(command)


def _organisation_option(command: Command) -> None:
    command.add_argument(
        "--organisation", help=f"its name; else the only one there is, or a new one, {FIRST_ORGANISATION}"
    )


def _budget_options(command: Command) -> None:
    command.add_argument("--budget-usd", type=_dollars, help="dollars, beyond which calls are refused")
    command.add_argument(
        "--soft-usd", type=_dollars, help="dollars, beyond which there are warnings; 0: none"
    )
    command.add_argument("--budget-period", choices=PERIODS, help="in which they may be spent (month)")


def budget_of(chosen: argparse.Namespace, before: Budget | None = None) -> Budget | None:
    """The budget of the arguments; what they do not name stays as it was before. Raises Refused."""
    was = before or Budget("", MONTH, None, None)
    limit = was.limit_nano if chosen.budget_usd is None else chosen.budget_usd
    soft = was.soft_nano if chosen.soft_usd is None else chosen.soft_usd
    if limit is None and soft is None:
        if chosen.budget_period:
            raise Refused(
                "--budget-period alone limits nothing: say how much, with --budget-usd or --soft-usd."
            )
        return None
    return Budget("", chosen.budget_period or was.period, limit, soft)


def names_budget(chosen: argparse.Namespace) -> bool:
    return any((chosen.budget_usd is not None, chosen.soft_usd is not None, chosen.budget_period))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _dollars(text: str) -> int:
    try:
        return account_rules.nano_dollars(text, "amount")
    except InvalidInput as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None


def _days(text: str) -> int:
    return _whole(text, 1, LONGEST_DAYS)


def _hours(text: str) -> int:
    return _whole(text, 0, LONGEST_GRACE_HOURS)


def _whole(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"a whole number from {least} to {most} is needed")
    return int(text)
