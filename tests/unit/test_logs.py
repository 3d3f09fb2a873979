"""The format of log lines, and values that must not appear in a log."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import peewee
import psycopg2
import pytest

from core.logs import OWN_LOGGERS, JsonFormatter, LogFormat, TextFormatter, configure_logs

FIELDS = {"operation": "get_user_by_id", "duration_ms": 12.5, "statement": "SELECT 1 = %s"}
SECRET = "alice@example.org"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Yield the root logger; restore its handlers and the log levels afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    silenced = logging.getLogger("peewee").level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("peewee").setLevel(silenced)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def format_record(formatter: logging.Formatter, message: str, *args: object, **extra: Any) -> str:
    """Return the text of one record, written by this formatter."""
    logger = logging.getLogger(f"core.test.{id(formatter)}")
    # other handlers must not get the record: pytest-xdist cannot send a lone surrogate between processes
    logger.propagate = False
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.warning(message, *args, **extra)
    logger.removeHandler(handler)
    return stream.getvalue()


def fail_in_the_driver() -> BaseException:
    """Return an error with a cause from the driver, whose message has a value of the row."""
    try:
        try:
            raise psycopg2.IntegrityError(f"DETAIL:  Key (email)=({SECRET}) already exists.")
        except psycopg2.Error as driver:
            raise peewee.IntegrityError(str(driver)) from driver
    except peewee.PeeweeException as error:
        outermost = ValueError("create_user breaks users_email")
        outermost.__cause__ = error
        return outermost


def test_json_is_one_object_a_line() -> None:
    """A record is one JSON object on one line, with the time, the message and the extra fields."""
    text = format_record(JsonFormatter(), "held %s\nlong", "it", extra={"fields": FIELDS})
    assert text.count("\n") == 1
    document = json.loads(text)
    assert document["level"] == "WARNING"
    assert document["logger"].startswith("core.test")
    assert document["message"] == "held it\nlong"
    assert datetime.fromisoformat(document["time"]).utcoffset() is not None
    assert FIELDS.items() <= document.items()


def test_json_writes_unknown_types_as_text() -> None:
    """A field that JSON cannot represent is written as text, so the line is not lost."""
    document = json.loads(
        format_record(JsonFormatter(), "seen", extra={"fields": {"error": ValueError("x"), "n": 1j}})
    )
    assert (document["error"], document["n"]) == ("x", "1j")


def test_text_has_its_fields_at_the_end() -> None:
    """Extra fields follow the message; a value with spaces is quoted, so that programs can parse the line."""
    text = format_record(TextFormatter(), "slow statement", extra={"fields": FIELDS})
    assert text.endswith(
        'slow statement operation=get_user_by_id duration_ms=12.5 statement="SELECT 1 = %s"\n'
    )
    assert text.partition(" ")[0].endswith("Z")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_has_no_message_of_the_driver(formatter: logging.Formatter) -> None:
    """A traceback has every error of the chain, but not the driver's message, which repeats row values."""
    text = format_record(formatter, "failed", exc_info=fail_in_the_driver())
    assert SECRET not in text
    assert "create_user breaks users_email" in text
    assert "psycopg2.IntegrityError" in text
    assert "fail_in_the_driver" in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_debug_shows_no_parameter_of_peewee(
    root: logging.Logger, form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    """At DEBUG, peewee's statements with their parameters are not logged."""
    root.handlers.clear()  # not in the fixture: pytest adds its handlers after the fixture
    configure_logs("DEBUG", form)
    logging.getLogger("peewee").debug(("SELECT %s", [SECRET]))
    logging.getLogger("core.test").debug("seen")
    written = capsys.readouterr().err
    assert SECRET not in written
    assert "seen" in written


@pytest.mark.parametrize("form", ["text", "json"])
def test_debug_is_for_our_own_loggers(
    root: logging.Logger, form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    """At DEBUG, other libraries stay silent, because they log cookies and headers."""
    root.handlers.clear()  # not in the fixture: pytest adds its handlers after the fixture
    configure_logs("DEBUG", form)
    for name in ("uvicorn.error", "websockets.server", "streamlit.web", "httpcore.http11", "of.tomorrow"):
        logging.getLogger(name).debug("< Cookie: _streamlit_user=%s", SECRET)
    logging.getLogger("dashboard.server.sign_in").debug("seen")
    written = capsys.readouterr().err
    assert SECRET not in written
    assert "seen" in written


HOSTILE = (
    "eve\n2026-01-01T00:00:00.000Z INFO core.audit alice signed in\x1b[2J\x1b[31m\x9b2J\u2028\u202eb\ud800\r"
)


def test_a_hostile_name_cannot_forge_a_log_line() -> None:
    """Line ends, escape sequences and direction controls in a value are escaped."""
    text = format_record(
        TextFormatter(), "%s acted", HOSTILE, extra={"fields": {"actor": HOSTILE, "raw": "a\x1bb"}}
    )
    assert text.count("\n") == 1
    assert text.isprintable() or text[:-1].isprintable()
    assert r"eve\n2026" in text
    assert r"\x1b[2J" in text
    assert "alice signed in" in json.loads(format_record(JsonFormatter(), HOSTILE))["message"]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_an_error_message_cannot_forge_a_log_line(formatter: logging.Formatter) -> None:
    """Line ends and escape sequences in the message of an error cannot begin a new log line."""
    text = format_record(formatter, "failed", exc_info=ValueError(HOSTILE))
    assert "\x1b" not in text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())
