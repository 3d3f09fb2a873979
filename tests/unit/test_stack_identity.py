"""Which stack a process belongs to: what its id says, and when two are the same."""

import pytest

from core.settings.stack_identity import build_identity, describe_database, parse_identity

URL = "postgresql://alice:s3cr3t@db.example:5433/echo"


def test_an_id_is_read_as_it_was_written() -> None:
    """Ids with a name and without one are parsed."""
    for name in ("main-1a2b3c", None):
        identity = build_identity(name, URL)
        assert parse_identity(str(identity)) == identity


@pytest.mark.parametrize("text", ["", "@", "main", "main@", "main@xyz", "a b@0123456789ab", "alive\n"])
def test_other_texts_are_no_id(text: str) -> None:
    """What another server says is not taken for one."""
    assert parse_identity(text) is None


def test_an_id_shows_neither_address_nor_password() -> None:
    """Whoever may read the probes learns nothing about the database."""
    shown = str(build_identity("main", URL))
    assert [word for word in ("alice", "s3cr3t", "db.example", "5433", "echo") if word in shown] == []


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (("main", "postgresql://postgres@postgres:5432/echo"), True),  # seen from within the containers
        (("other", URL), False),  # another checkout, which uses the same address after the first one
        ((None, URL), True),
        ((None, "postgresql://bob@db.example:5433/echo?connect_timeout=5"), True),
        ((None, "postgresql://alice:s3cr3t@db.example:5433/game"), False),
        ((None, "postgresql://alice:s3cr3t@db.example:5434/echo"), False),
        ((None, f"{URL}?options=-csearch_path%3Dother"), False),
    ],
)
def test_names_decide_where_both_have_one(other: tuple[str | None, str], *, is_same: bool) -> None:
    """If one has no name, the database decides: its place, not the user or the options."""
    ours, theirs = build_identity("main", URL), build_identity(*other)
    assert (ours.is_same(theirs), theirs.is_same(ours)) == (is_same, is_same)


def test_this_machine_has_two_names() -> None:
    """`localhost` and 127.0.0.1 are one place, and the default port may be left out."""
    assert describe_database("postgresql://localhost/echo") == describe_database(
        "postgresql://127.0.0.1:5432/echo"
    )
    assert describe_database("nonsense=1") == "(not a connection URL)"
