"""E-mail addresses that are given to users by every call, and looked for where they must not be."""

from msgspec.structs import replace

from core import EnhancedDatabaseService
from core.records import User, freeze
from core.service.writes import new_id

# Parts of addresses that occur in nothing else.
SECRETS = ("zanzibar", "quokka", "example.org")
FIRST, SECOND = "Zanzibar@Example.org", "quokka@example.org"


def list_found(text: str) -> list[str]:
    """Return the parts of addresses that a text has."""
    return [secret for secret in SECRETS if secret in text.lower()]


def write_every_way(service: EnhancedDatabaseService) -> list[User]:
    """Give users addresses by every call that can, and read them by every call that answers with users."""
    alice = service.create_user(username="alice", email=FIRST)
    service.create_user(username="bob")
    bob = service.update_user_profile(service.get_user_by_username("bob").id, email=SECOND)
    charlie = replace(bob, id=new_id(), username="charlie", email=FIRST)
    service.load_users([charlie, replace(alice, preferences=freeze({"a": 1}))])
    service.warm_cache(players=10)
    for user in (alice, bob, charlie):
        service.touch_last_active(user.id)
        # from the database, from Redis, from the near cache
        for _ in range(3):
            assert service.get_user_by_id(user.id).email == user.email
    assert {user.email for user in service.list_users()} == {FIRST, SECOND}
    assert list(service.stream_users()) == list(service.list_users())
    assert [user.email for user in service.search_users("a")] == [FIRST]
    assert service.get_user_by_username("bob").email == SECOND
    assert [user.username for user in service.list_users_by_email(FIRST.upper())] == ["alice", "charlie"]
    service.reencrypt_users()
    return [alice, bob, charlie]
