"""The settings of a session in their three forms: options, the probe's statement, a prefix."""

import pytest

from core.database.session_settings import (
    PREFIX_END,
    OptionNotPossible,
    SessionFacts,
    SessionSettings,
    find_missing_schema,
    parse_options,
)

URL = "postgresql://u@h/d?options="
FACTS = SessionFacts(
    is_pinned=False,
    schema="echo",
    search_path="echo, public",
    user="u",
    database="d",
    encoding="UTF8",
    is_standby=False,
    is_read_only=False,
    is_linux=True,
    may_stage=True,
    is_distributed=False,
    system="7301",
    timeline=None,
)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", []),
        ("-c search_path=echo,public", [("search_path", "echo,public")]),
        ("-csearch_path=echo --work-mem=5MB", [("search_path", "echo"), ("work_mem", "5MB")]),
        (r"-c search_path=echo,\ public  -c x.y=a\\b", [("search_path", "echo, public"), ("x.y", r"a\b")]),
        ("--a=b=c", [("a", "b=c")]),
    ],
)
def test_options_are_split_as_the_server_does(options: str, settings: list[tuple[str, str]]) -> None:
    """All three forms are accepted, with blanks and backslashes in values."""
    assert list(parse_options(options)) == settings


@pytest.mark.parametrize("options", ["-d 3", "-c search_path", "-c", "search_path=echo"])
def test_an_option_without_a_name_cannot_be_set_later(options: str) -> None:
    """It is refused, because it could not be set later."""
    with pytest.raises(OptionNotPossible):
        list(parse_options(options))


def test_our_options_follow_those_of_the_url() -> None:
    """The server uses the last option of a name, so ours have precedence."""
    options = SessionSettings(URL + "-c%20timezone%3DCET", statement_timeout_ms=5).start_up_options
    assert list(parse_options(options))[:2] == [("timezone", "CET"), ("TimeZone", "UTC")]
    assert ("default_transaction_isolation", "read committed") in list(parse_options(options))
    assert ("statement_timeout", "5") in list(parse_options(options))


def test_a_prefix_keeps_options_of_the_url_and_nothing_that_the_driver_would_replace() -> None:
    """Our settings have precedence, the schema is the server's, and a percent sign is escaped."""
    url = URL + "-c%20timezone%3DCET%20-c%20my.note%3D50%25it's%20-c%20search_path%3Decho"
    prefix = SessionSettings(url, statement_timeout_ms=5).build_prefix(FACTS._replace(schema="odd'%\\name"))
    statements = prefix.removesuffix(PREFIX_END).rstrip().split("; ")
    assert statements[0] == "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
    assert statements[1] == r"SELECT set_config('my.note', E'50\x25it''s', true)"
    assert statements[-1] == r"SET LOCAL search_path = E'odd''\x25\\name', pg_temp;"
    assert "SET LOCAL TimeZone = 'UTC'" in statements
    assert "SET LOCAL statement_timeout = '5'" in statements
    assert "CET" not in prefix
    assert "%" not in prefix


@pytest.mark.parametrize("is_linux", [True, False])
def test_a_server_looks_for_its_client_where_it_can(*, is_linux: bool) -> None:
    """A server on another system refuses the parameter."""
    facts = FACTS._replace(is_linux=is_linux)
    prefix = SessionSettings(URL, statement_timeout_ms=5).build_prefix(facts)
    assert ("client_connection_check_interval" in prefix) is is_linux


@pytest.mark.parametrize(
    ("search_path", "schema", "missing"),
    [
        ('"$user", public', "public", None),
        ('"$user", public', "alice", None),
        ("echo, public", "echo", None),
        ("echo, public", "public", "echo"),
        ('"$user", echo, public', "public", "echo"),
        ('"Echo ""1""",public', "public", 'Echo "1"'),
        ("ECHO,public", "echo", None),
        ("pg_temp, public", "public", None),
    ],
)
def test_a_schema_that_is_missing_is_named(search_path: str, schema: str, missing: str | None) -> None:
    """Only the schema of the role may be missing, because every default path begins with it."""
    facts = FACTS._replace(search_path=search_path, schema=schema, user="alice")
    assert find_missing_schema(facts) == missing
