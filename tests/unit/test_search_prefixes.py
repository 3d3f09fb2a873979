"""Prefixes as patterns: escaped, folded by the server alone, right for a sigma at any place."""

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
        ("οδος", "οδο_%"),  # Greek on purpose
        ("", "%"),
    ],
)
def test_letters_stay_as_they_are_typed(text: str, pattern: str) -> None:
    """Python does not fold it; a sigma that is not the first letter may have two small forms."""
    prefix = build_prefix(text)
    assert prefix.pattern == pattern
    assert prefix.exact.endswith("%")


def test_a_statement_is_refined_only_for_a_sigma() -> None:
    """Each condition is refined; the one that the index answers stays first."""
    statement = f"SELECT FROM users WHERE {match_prefix('username')} OR {match_prefix('u.name')} LIMIT 1"
    assert build_prefix("alice").refine(statement) == statement
    refined = build_prefix("ΟΔΟΣ").refine(statement)
    assert refined.count(" LIKE translate(lower(%(exact)s), 'ς', 'σ')") == 2  # noqa: RUF001  # Greek on purpose
    assert match_prefix("u.name") in refined
