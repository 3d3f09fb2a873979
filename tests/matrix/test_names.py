"""Names of every alphabet are found in databases of every locale, by their beginning and as a whole."""

from collections.abc import Callable
from itertools import product

import pytest

from core import open_service
from tests.matrix.conftest import VARIANTS, Place, Variant

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
def test_names_are_found_in_every_locale(make_place: Callable[[Variant], Place], locale: Variant) -> None:
    """Each name is found by its spelling and its beginnings; a whole name finds no other name."""
    with open_service(make_place(locale).settings) as service:
        for name in NAMES:
            service.create_user(username=name)
        for name, letters in product(NAMES, range(1, 10)):
            found = [user.username for user in service.search_users(name[:letters], limit=50)]
            assert name in found, (name, name[:letters])
        assert [user.username for user in service.search_users("ΟΔΟΣΑ")] == ["ΟΔΟΣΑ"]
        assert {user.username for user in service.search_users("ΟΔΟΣ")} == {"ΟΔΟΣ", "ΟΔΟΣΑ"}
        if "'C'" not in locale.locale or "icu" in locale.locale:
            for typed in ("οδοσ", "οδος", "Οδος"):  # Greek on purpose
                assert {user.username for user in service.search_users(typed)} == {"ΟΔΟΣ", "ΟΔΟΣΑ"}, typed
