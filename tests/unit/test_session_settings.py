"""Session settings as start-up options of a connection, or as statements before each transaction."""

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
    """`-c name=value`, `-cname=value` and `--name=value` are parsed, also with escaped characters."""
    assert list(parse_options(options)) == settings


@pytest.mark.parametrize("options", ["-d 3", "-c search_path", "-c", "search_path=echo"])
def test_an_option_without_name_and_value_is_refused(options: str) -> None:
    """An option without a name and a value is refused, because SET cannot apply it later."""
    with pytest.raises(OptionNotPossible):
        list(parse_options(options))


def test_our_options_follow_the_options_of_the_url() -> None:
    """The service's options come after the options of the URL, because the server uses the last value."""
    options = SessionSettings(URL + "-c%20timezone%3DCET", statement_timeout_ms=5).start_up_options
    assert list(parse_options(options))[:2] == [("timezone", "CET"), ("TimeZone", "UTC")]
    assert ("default_transaction_isolation", "read committed") in list(parse_options(options))
    assert ("statement_timeout", "5") in list(parse_options(options))


def test_a_prefix_keeps_the_options_of_the_url() -> None:
    """The statements set the URL's options that the service does not set, and contain no percent sign."""
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
def test_the_client_connection_check_needs_linux(*, is_linux: bool) -> None:
    """`client_connection_check_interval` is set on Linux only, as other servers refuse the parameter."""
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
def test_a_missing_schema_is_found(search_path: str, schema: str, missing: str | None) -> None:
    """The first schema of the search path that does not exist is returned, except the schema of "$user"."""
    facts = FACTS._replace(search_path=search_path, schema=schema, user="alice")
    assert find_missing_schema(facts) == missing
