"""LIKE patterns for a search by prefix, and the Greek letter sigma, which has two lower-case forms."""

import pytest

from core.queries.users import build_prefix, match_prefix


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Alice", "Alice%"),
        ("50%_\\", r"50\%\_\\%"),
        ("İstanbul", "İstanbul%"),
        ("ΟΔΟΣ", "ΟΔΟ_%"),
        ("ΣΊΣΥΦΟΣ", "ΣΊ_ΥΦΟ_%"),
        ("οδος", "οδο_%"),  # Greek letters
        ("", "%"),
    ],
)
def test_a_pattern_keeps_the_case(text: str, pattern: str) -> None:
    """A pattern keeps the case of its letters; a wildcard replaces each sigma after the first letter."""
    prefix = build_prefix(text)
    assert prefix.pattern == pattern
    assert prefix.exact.endswith("%")


def test_a_statement_is_refined_only_for_a_sigma() -> None:
    """If the prefix has a sigma, each LIKE gets a second condition; otherwise the statement is unchanged."""
    statement = f"SELECT FROM users WHERE {match_prefix('username')} OR {match_prefix('u.name')} LIMIT 1"
    assert build_prefix("alice").refine(statement) == statement
    refined = build_prefix("ΟΔΟΣ").refine(statement)
    assert refined.count(" LIKE translate(lower(%(exact)s), 'ς', 'σ')") == 2  # noqa: RUF001  # Greek letters
    assert match_prefix("u.name") in refined
