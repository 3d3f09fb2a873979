"""The errors of `core`: all in one module, and what a broken constraint says."""

import importlib
import pkgutil

import psycopg2
import pytest

import core
from core import errors
from core.database.faults import _read_key, translate
from core.errors import ConstraintViolated, EchoMarketsError

# Of programs beside the service: starting the stack, and reading an exporter over HTTP.
OTHERS = {"core.http_client", "core.local.errors"}


def list_errors(kind: type[EchoMarketsError] = EchoMarketsError) -> set[type[EchoMarketsError]]:
    """Return every subclass that is loaded."""
    found = set(kind.__subclasses__())
    return found.union(*map(list_errors, found))


def test_every_error_can_be_imported_from_one_module() -> None:
    """A caller finds each error of the service in `core.errors`, with a sentence that explains it."""
    for module in pkgutil.walk_packages(core.__path__, "core."):
        if not module.name.startswith("core.local"):
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
def test_the_key_that_broke_a_constraint_is_read(detail: str, key: dict[str, str]) -> None:
    """In whatever language the server speaks; the values of a whole row are never shown."""
    assert _read_key(detail) == key


def test_a_violation_without_details_has_no_key() -> None:
    """An error of the driver that carries no fields is still translated."""
    error = type("Broken", (psycopg2.IntegrityError,), {"pgcode": "23503"})("broken")
    translated = translate(error, "load_quests")
    assert isinstance(translated, ConstraintViolated)
    assert translated.key == {}
