"""`.local/stack.env`, the record of the running stack: the addresses of its servers, and their secrets.

Owns the check of a record, and the environment that a process gets from it. A damaged record is an error,
whose message names the remedy.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

from dotenv import dotenv_values

from core.errors import SettingsError, StackError
from core.settings.database_url import DatabaseUrlError, check_database_url
from core.settings.secret_files import read_secret
from core.settings.texts import is_port
from core.stack.start_order import PORT_SETTINGS, REPLICA

Mode = Literal["local", "docker"]
_MODES: Final = get_args(Mode)
_PORTS: Final = tuple(setting for program, setting in PORT_SETTINGS.items() if program != REPLICA)
_NEEDED: Final = ("MODE", "STACK_NAME", "EXPORTER_HOST", "DASHBOARD_HOST", "DATABASE_URL", *_PORTS)
FILE: Final = "_FILE"


def read_record(path: Path) -> dict[str, str]:
    """Return the variables of a record, none if the file is missing.

    Raises `StackError` if the record is damaged.
    """
    if not os.path.lexists(path):
        return {}
    try:
        values = {
            name: value or "" for name, value in dotenv_values(path, interpolate=False, verbose=False).items()
        }
        problem = None if path.is_file() else "it is no file"
    except (OSError, ValueError) as error:
        values, problem = {}, str(getattr(error, "strerror", None) or error)
    problem = problem or _find_problem(values)
    if problem:
        raise StackError(
            f"{path} is damaged: {problem}; `make down` stops what runs, then `make up` starts it again"
        )
    return values


def _find_problem(values: Mapping[str, str]) -> str | None:
    missing = [name for name in _NEEDED if not values.get(name)]
    if missing:
        return f"{missing[0]} is missing"
    if values["MODE"] not in _MODES:
        return f"MODE is neither {' nor '.join(_MODES)}"
    for name in _PORTS:
        if not is_port(values[name]):
            return f"{name} is no port"
    try:
        check_database_url(values["DATABASE_URL"])
    except DatabaseUrlError:
        return "DATABASE_URL is no URL of a database"
    return None


def build_environment(record: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a new process of the stack.

    It has the variables of this process and of the record; the record takes precedence. If the record has,
    for example, REDIS_PASSWORD, the variable REDIS_PASSWORD_FILE of this process is left out, and vice versa.
    """
    others = {name.removesuffix(FILE) if name.endswith(FILE) else f"{name}{FILE}" for name in record}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in others}
    return {**inherited, **record}


def find_secret(record: Mapping[str, str], name: str) -> str:
    """Return the secret `name` from a record, which has the secret itself or the path of its file.

    Returns "" if the record has neither. Raises `StackError` if the file cannot be used.
    """
    path = record.get(f"{name}{FILE}")
    if not path:
        return record.get(name, "")
    try:
        return read_secret(Path(path), name=f"{name}{FILE}")
    except SettingsError as error:
        raise StackError(str(error)) from error
