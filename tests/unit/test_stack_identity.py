"""The id of a stack, and the comparison of two ids."""

import pytest

from core.settings.stack_identity import build_identity, describe_database, parse_identity

URL = "postgresql://alice:s3cr3t@db.example:5433/echo"


def test_an_id_survives_formatting_and_parsing() -> None:
    """The text of an id, with or without a name, is parsed into an equal id."""
    for name in ("main-1a2b3c", None):
        identity = build_identity(name, URL)
        assert parse_identity(str(identity)) == identity


@pytest.mark.parametrize("text", ["", "@", "main", "main@", "main@xyz", "a b@0123456789ab", "alive\n"])
def test_an_invalid_text_is_no_id(text: str) -> None:
    """`parse_identity` returns None for other texts, such as the answer of another server."""
    assert parse_identity(text) is None


def test_an_id_shows_neither_address_nor_password() -> None:
    """An id does not show the user, password, host, port or database, because anybody can read the probes."""
    shown = str(build_identity("main", URL))
    assert [word for word in ("alice", "s3cr3t", "db.example", "5433", "echo") if word in shown] == []


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (
            ("main", "postgresql://postgres@postgres:5432/echo"),
            True,
        ),  # the same stack, with the address inside the containers
        (("other", URL), False),  # a second stack that uses the address of the first one
        ((None, URL), True),
        ((None, "postgresql://bob@db.example:5433/echo?connect_timeout=5"), True),
        ((None, "postgresql://alice:s3cr3t@db.example:5433/game"), False),
        ((None, "postgresql://alice:s3cr3t@db.example:5434/echo"), False),
        ((None, f"{URL}?options=-csearch_path%3Dother"), False),
    ],
)
def test_ids_are_compared_by_name_or_database(other: tuple[str | None, str], *, is_same: bool) -> None:
    """Ids with names are equal if their names are; otherwise host, port, database and schema decide."""
    ours, theirs = build_identity("main", URL), build_identity(*other)
    assert (ours.is_same(theirs), theirs.is_same(ours)) == (is_same, is_same)


def test_localhost_equals_127_0_0_1() -> None:
    """`localhost` and 127.0.0.1 are the same host, and a URL without a port means 5432."""
    assert describe_database("postgresql://localhost/echo") == describe_database(
        "postgresql://127.0.0.1:5432/echo"
    )
    assert describe_database("nonsense=1") == "(not a connection URL)"
