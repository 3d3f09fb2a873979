"""The errors of `core`: their module, and the messages that are taken from PostgreSQL."""

import importlib
import pkgutil

import psycopg2
import pytest

import core
from core import errors
from core.database.driver_errors import _read_key, describe_refusal, translate, translate_connect
from core.errors import ConstraintViolated, EchoMarketsError

# Modules that are not checked: core.http_client reads from an exporter, and the service does not use it.
OTHERS = {"core.http_client", "core.errors"}


def list_errors(kind: type[EchoMarketsError] = EchoMarketsError) -> set[type[EchoMarketsError]]:
    """Return every loaded subclass of `kind`."""
    found = set(kind.__subclasses__())
    return found.union(*map(list_errors, found))


def test_every_error_can_be_imported_from_one_module() -> None:
    """Every error of the service can be imported from `core.errors` and has a docstring."""
    for module in pkgutil.walk_packages(core.__path__, "core."):
        if not module.name.startswith("core.stack"):
            importlib.import_module(module.name)
    for error in list_errors():
        if error.__module__.startswith("core.") and error.__module__ not in OTHERS:
            assert getattr(errors, error.__name__, None) is error, error
            assert error.__doc__


@pytest.mark.parametrize(
    ("detail", "key"),
    [
        ('Key (user_id)=(7) is not present in table "users".', {"user_id": "7"}),
        ("Schlüssel (username)=(a, b) existiert bereits.", {"username": "a, b"}),
        ("Key (user_id, session_date)=(7, 1) exists.", {"user_id": "7", "session_date": "1"}),
        ("Failing row contains (7, secret).", {}),
        ("", {}),
    ],
)
def test_the_key_of_a_violated_constraint_is_parsed(detail: str, key: dict[str, str]) -> None:
    """The key is read from a detail in any language, but the values of a whole row are not read."""
    assert _read_key(detail) == key


def test_a_violation_without_details_has_no_key() -> None:
    """A driver's error without details is still translated to `ConstraintViolated`."""
    error = type("Broken", (psycopg2.IntegrityError,), {"pgcode": "23503"})("broken")
    translated = translate(error, "load_quests")
    assert isinstance(translated, ConstraintViolated)
    assert translated.key == {}


CONNECTION = 'connection to server at "db.example" (10.0.0.7), port 5432 failed: '


@pytest.mark.parametrize(
    ("words", "is_refused", "kind"),
    [
        (f"{CONNECTION}FATAL:  sorry, too many clients already", True, "ConnectionsExhausted"),
        (f'{CONNECTION}FATAL:  too many connections for role "echo"', True, "ConnectionsExhausted"),
        (f"{CONNECTION}FATAL:  no more connections allowed (max_client_conn)", True, "ConnectionsExhausted"),
        (f"{CONNECTION}FATAL:  tut mir leid, schon zu viele Verbindungen", True, "ConnectFailed"),
        (f"{CONNECTION}ВАЖНО:  извините, уже слишком много клиентов", True, "ConnectFailed"),
        (f'{CONNECTION}FATAL:  password authentication failed for user "echo"', True, "ConnectFailed"),
        (f"{CONNECTION}Connection refused\n\tIs the server running on that host?", False, "ConnectFailed"),
        (f"{CONNECTION}timeout expired", False, "ConnectFailed"),
        ('could not translate host name "db.example" to address: Unknown host', False, "ConnectFailed"),
        (
            f"{CONNECTION}Connection refused\n{CONNECTION}FATAL:  sorry, too many clients already",
            True,
            "ConnectionsExhausted",
        ),
    ],
)
def test_a_refusal_is_distinguished_from_no_answer(words: str, kind: str, *, is_refused: bool) -> None:
    """A server's refusal is recognised in any language and in any line of the message."""
    error = translate_connect(psycopg2.OperationalError(words))
    assert (type(error).__name__, error.is_refused) == (kind, is_refused)
    assert words.splitlines()[0] in str(error)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (f'{CONNECTION}FATAL:  role "echo" does not exist', 'FATAL:  role "echo" does not exist'),
        (f"{CONNECTION}Connection refused\n\tIs the server running?", "Connection refused"),
        (
            'could not translate host name "db.example" to address: x',
            "could not translate host (hidden) to address: x",
        ),
        (
            f'{CONNECTION}FATAL:  no pg_hba.conf entry for host "10.1.1.1", user "echo"',
            'FATAL:  no pg_hba.conf entry for host (hidden), user "echo"',
        ),
        ('connection to server on socket "/run/.s.PGSQL.1" failed: No such file', "No such file"),
        ("cannot reach 10.0.0.7", "cannot reach (hidden)"),
    ],
)
def test_a_reason_for_visitors_has_no_address(words: str, shown: str) -> None:
    """The reason in the health document hides host names and addresses, which the log shows."""
    assert describe_refusal(psycopg2.OperationalError(words)) == shown
