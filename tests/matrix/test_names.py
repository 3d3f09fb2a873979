"""The search finds usernames of several alphabets in databases of every locale."""

from collections.abc import Callable
from itertools import product

import pytest

from core import open_service
from tests.matrix.conftest import VARIANTS, Target, Variant

NAMES = ("ΟΔΟΣ", "ΟΔΟΣΑ", "ΣΊΣΥΦΟΣ", "ΣΊΣ.Δ", "İstanbul", "IJmuiden", "STRASSE", "straße", "Ǆ")
LOCALES = {
    **{name: variant for name, variant in VARIANTS.items() if variant.locale},
    "PostgreSQL 18": Variant(),
    "locale ICU, Greek": Variant(is_debian=True, locale="LOCALE_PROVIDER icu ICU_LOCALE 'el' LOCALE 'C'"),
    "locale ICU, Lithuanian": Variant(
        is_debian=True, locale="LOCALE_PROVIDER icu ICU_LOCALE 'lt' LOCALE 'C.UTF-8'"
    ),
    "locale C.UTF-8 of libc": Variant(locale="LOCALE_PROVIDER libc LOCALE 'C.UTF-8'"),
}


@pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES.keys())
def test_names_are_found_in_every_locale(make_target: Callable[[Variant], Target], locale: Variant) -> None:
    """A search for the first letters of a username finds it, also in another case if the locale has cases."""
    with open_service(make_target(locale).settings) as service:
        for name in NAMES:
            service.create_user(username=name)
        for name, letters in product(NAMES, range(1, 10)):
            found = [user.username for user in service.search_users(name[:letters], limit=50)]
            assert name in found, (name, name[:letters])
        assert [user.username for user in service.search_users("ΟΔΟΣΑ")] == ["ΟΔΟΣΑ"]
        assert {user.username for user in service.search_users("ΟΔΟΣ")} == {"ΟΔΟΣ", "ΟΔΟΣΑ"}
        if "'C'" not in locale.locale or "icu" in locale.locale:
            for typed in ("οδοσ", "οδος", "Οδος"):  # Greek letters that look like Latin ones
                assert {user.username for user in service.search_users(typed)} == {"ΟΔΟΣ", "ΟΔΟΣΑ"}, typed
