"""E-mail addresses that tests store with every call, and the search for unencrypted parts of them."""

from msgspec.structs import replace

from core import EnhancedDatabaseService
from core.records import User, freeze
from core.service.writes import new_id

# Parts of the addresses in lower case; no other stored text contains these words.
ADDRESS_PARTS = ("zanzibar", "quokka", "example.org")
FIRST, SECOND = "Zanzibar@Example.org", "quokka@example.org"


def list_address_parts(text: str) -> list[str]:
    """Return the parts of the addresses that a text contains."""
    return [part for part in ADDRESS_PARTS if part in text.lower()]


def write_with_every_call(service: EnhancedDatabaseService) -> list[User]:
    """Store addresses with every call that accepts one; read them with every call that returns users."""
    alice = service.create_user(username="alice", email=FIRST)
    service.create_user(username="bob")
    bob = service.update_user_profile(service.get_user_by_username("bob").id, email=SECOND)
    charlie = replace(bob, id=new_id(), username="charlie", email=FIRST)
    service.load_users([charlie, replace(alice, preferences=freeze({"a": 1}))])
    service.warm_cache(players=10)
    for user in (alice, bob, charlie):
        service.touch_last_active(user.id)
        # the first read comes from the database, the second from Redis, the third from the near cache
        for _ in range(3):
            assert service.get_user_by_id(user.id).email == user.email
    assert {user.email for user in service.list_users()} == {FIRST, SECOND}
    assert list(service.stream_users()) == list(service.list_users())
    assert [user.email for user in service.search_users("a")] == [FIRST]
    assert service.get_user_by_username("bob").email == SECOND
    assert [user.username for user in service.list_users_by_email(FIRST.upper())] == ["alice", "charlie"]
    service.reencrypt_users()
    return [alice, bob, charlie]
