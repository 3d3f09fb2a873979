"""Actions of operators on the dashboard: permission, rate limit, confirmation and audit events."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService, Settings
from core.service.users import user_key
from core.stack.ports import find_free_port
from core.web.rate_limits import RateLimits, open_rate_limits
from dashboard import runtime
from dashboard.pages.operations import actions
from dashboard.pages.operations.actions import Action, NotAllowed, perform
from dashboard.server import sign_in
from dashboard.server.access import Policy
from tests.conftest import Execute
from tests.fleet_reading import read_own
from tests.game import SESSIONS, play_game

pytestmark = pytest.mark.usefixtures("released_pages")

TIMEOUT_SECONDS = 30


@pytest.fixture
def game(service: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """Return a service on a finished game, which the panel uses."""
    play_game(service)
    runtime.set_service(service)
    return service


@pytest.fixture
def with_operator(game: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """Return the service of `game`, with the local user as an operator."""
    sign_in.set_policy(Policy(is_local_operator=True))
    return game


def draw_panel() -> None:
    """Show the panel of actions; Streamlit runs the source of this function as a script."""
    from dashboard import runtime  # noqa: PLC0415  # see above
    from dashboard.pages.operations.actions import show_operator_actions  # noqa: PLC0415  # see above

    show_operator_actions(runtime.get_service())


def open_panel() -> AppTest:
    """Return the panel after its run."""
    return AppTest.from_function(draw_panel, default_timeout=TIMEOUT_SECONDS).run()


def read_actions(service: EnhancedDatabaseService) -> list[tuple[str, str, str, str]]:
    """Return actor, action, target and outcome of all audit events, oldest first."""
    events = reversed(service.list_audit_events())
    return [(event.actor, event.action, event.target, event.outcome) for event in events]


def test_nobody_is_an_operator_by_default(game: EnhancedDatabaseService) -> None:
    """By default the panel has no button and says that only operators can use the actions."""
    test = open_panel()
    assert not test.button
    assert any("Only operators can use these actions" in caption.value for caption in test.caption)


def test_perform_refuses_visitors(game: EnhancedDatabaseService) -> None:
    """`perform` refuses an action of a user who is no operator, and records it as refused."""
    with pytest.raises(NotAllowed, match="expire_quests is for operators only"):
        perform(game, actions.build_expire_quests())
    assert read_actions(game) == [("local", "expire_quests", "past their time", "refused")]
    [event] = game.list_audit_events()
    assert event.detail == "expire_quests is for operators only; sign in as an operator"


def test_a_refusal_without_an_audit_event_is_logged(
    game: EnhancedDatabaseService, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """If a refusal cannot be recorded, the action is refused all the same, logged and counted."""
    execute("ALTER TABLE audit_events ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    with pytest.raises(NotAllowed, match="expire_quests is for operators only"):
        perform(game, actions.build_expire_quests())
    assert "expire_quests of 'local' (refused) could not be recorded" in caplog.text
    failures = read_own(game.metrics, "echo_audit_write_failures_total", action="expire_quests")
    assert failures == 1


def test_changes_of_an_action_are_recorded(with_operator: EnhancedDatabaseService) -> None:
    """The audit log has each quest that an action expires, with the operator and the action's event id."""
    alice = with_operator.get_user_by_username("alice")
    quest = with_operator.create_quest(
        alice.id,
        type="T",
        title="T",
        target_value=Decimal(1),
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    with_operator._clock = lambda: datetime.now(UTC) + timedelta(hours=2)
    perform(with_operator, actions.build_expire_quests())
    [event] = with_operator.list_audit_events()
    [change] = with_operator.list_audit_changes(row_key=quest.id)
    assert (change.actor, change.request_id) == ("local", str(event.id))
    assert (change.before, change.after) == ({"status": "ACTIVE"}, {"status": "EXPIRED"})


def test_an_action_needs_a_confirmation(with_operator: EnhancedDatabaseService) -> None:
    """The action's button only asks; the confirmation runs the action and shows its result."""
    test = open_panel()
    test.button(key="operator-warm").click().run()
    assert read_actions(with_operator) == []
    test.button(key="operator-confirm").click().run()
    assert read_actions(with_operator) == [("local", "warm_cache", "most active players", "done")]
    assert "keys are in the cache" in test.success[0].value
    assert "operator-confirm" not in {button.key for button in test.button}
    assert list(test.dataframe[0].value["Who"]) == ["local"]


def test_an_operator_clears_a_players_cache(
    with_operator: EnhancedDatabaseService, redis_client: Any
) -> None:
    """The action removes the player's profile from Redis, and its audit event names the player."""
    alice = with_operator.get_user_by_username("alice")
    with_operator.get_user_by_id(alice.id)
    assert redis_client.exists(user_key(alice.id))
    test = open_panel()
    test.text_input(key="operator-player").input("alice").run()
    test.button(key="operator-clear-player").click().run()
    test.button(key="operator-confirm").click().run()
    assert read_actions(with_operator) == [("local", "clear_cache", "player alice", "done")]
    assert "Cached data of alice removed" in test.success[0].value.replace("\\", "")
    assert not redis_client.exists(user_key(alice.id))


def test_an_unknown_player_is_named(with_operator: EnhancedDatabaseService) -> None:
    """For an unknown player the panel shows a warning, asks no question and records no event."""
    test = open_panel()
    test.text_input(key="operator-player").input("zorro").run()
    test.button(key="operator-clear-player").click().run()
    assert "No player is called “zorro”" in test.warning[0].value
    assert read_actions(with_operator) == []


def test_an_operator_closes_a_session(with_operator: EnhancedDatabaseService, execute: Execute) -> None:
    """Closing a session stores the ranks of its entries only and is recorded."""
    test = open_panel()
    test.selectbox(key="operator-session").select(SESSIONS[1]).run()
    test.button(key="operator-close-session").click().run()
    test.button(key="operator-confirm").click().run()
    rows = execute("SELECT DISTINCT session_date, rank IS NULL FROM leaderboard_entries ORDER BY 1")
    assert rows == [(SESSIONS[0], True), (SESSIONS[1], False), (SESSIONS[2], True)]
    assert read_actions(with_operator) == [("local", "close_session", "session 2013-02-28", "done")]


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (actions.build_clear_market, "clear_cache"),
        (actions.build_expire_quests, "expire_quests"),
        (lambda: actions.build_close_session(date(2013, 3, 1)), "close_session"),
        (lambda: actions.build_clear_player("bob"), "clear_cache"),
    ],
)
def test_every_action_is_recorded(
    with_operator: EnhancedDatabaseService, build: Callable[[], Action], kind: str
) -> None:
    """Every action writes one audit event with the outcome `done`."""
    perform(with_operator, build())
    [(actor, action, _, outcome)] = read_actions(with_operator)
    assert (actor, action, outcome) == ("local", kind, "done")


def test_actions_over_the_rate_limit_are_refused(with_operator: EnhancedDatabaseService) -> None:
    """An action over the limit per minute is refused with the time to wait, recorded and counted."""
    limits = RateLimits(count=with_operator.metrics.count_limited)
    sign_in.set_policy(Policy(is_local_operator=True), limits=limits, actions_per_minute=2)
    action = actions.build_expire_quests()
    perform(with_operator, action)
    perform(with_operator, action)
    with pytest.raises(NotAllowed, match=r"too many actions per minute; try again in \d+ seconds"):
        perform(with_operator, action)
    assert [outcome for *_, outcome in read_actions(with_operator)] == ["done", "done", "refused"]
    for name, count in (("requests", 3), ("rejections", 1)):
        assert (
            read_own(with_operator.metrics, f"echo_ratelimit_{name}_total", limiter="operator_actions")
            == count
        )


def test_an_action_that_cannot_be_recorded_is_not_done(
    with_operator: EnhancedDatabaseService, execute: Execute
) -> None:
    """If the audit event cannot be stored, the session is not closed and the panel shows an error."""
    execute("ALTER TABLE audit_events ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    test = open_panel()
    test.selectbox(key="operator-session").select(SESSIONS[1]).run()
    test.button(key="operator-close-session").click().run()
    test.button(key="operator-confirm").click().run()
    assert "failed" in test.error[0].value
    assert execute("SELECT count(*) FROM leaderboard_entries WHERE rank IS NOT NULL") == [(0,)]


def test_actions_are_refused_while_redis_is_down(
    with_operator: EnhancedDatabaseService, settings: Settings
) -> None:
    """Without Redis actions are refused, because stopping Redis would otherwise remove the rate limit."""
    gone = settings.model_copy(
        update={
            "enable_redis_cache": True,
            "redis_url": SecretStr(f"redis://127.0.0.1:{find_free_port()}/0"),
        }
    )
    with closing(
        open_rate_limits(gone, role="dashboard", count=with_operator.metrics.count_limited)
    ) as limits:
        sign_in.set_policy(Policy(is_local_operator=True), limits=limits)
        with pytest.raises(NotAllowed, match="Redis does not answer"):
            perform(with_operator, actions.build_expire_quests())
    assert [outcome for *_, outcome in read_actions(with_operator)] == ["refused"]
