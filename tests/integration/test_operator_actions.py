"""What operators do from the dashboard: who may, how often, and that it is written down."""

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
    """The panel on a database with a finished game."""
    play_game(service)
    runtime.set_service(service)
    return service


@pytest.fixture
def operated(game: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """The game, with the local user as its operator."""
    sign_in.set_policy(Policy(is_local_operator=True))
    return game


def draw_panel() -> None:
    """Draw the panel alone; Streamlit runs this function's text as a script."""
    from dashboard import runtime  # noqa: PLC0415  # see above
    from dashboard.pages.operations.actions import show_operator_actions  # noqa: PLC0415  # see above

    show_operator_actions(runtime.get_service())


def open_panel() -> AppTest:
    """Run the panel."""
    return AppTest.from_function(draw_panel, default_timeout=TIMEOUT_SECONDS).run()


def read_actions(service: EnhancedDatabaseService) -> list[tuple[str, str, str, str]]:
    """Return what was written down, oldest first."""
    events = reversed(service.list_audit_events())
    return [(event.actor, event.action, event.target, event.outcome) for event in events]


def test_nobody_is_an_operator_by_default(game: EnhancedDatabaseService) -> None:
    """The panel says who it would be for and has no button."""
    test = open_panel()
    assert not test.button
    assert any("Only operators can use these actions" in caption.value for caption in test.caption)


def test_the_function_refuses_as_well(game: EnhancedDatabaseService) -> None:
    """A call past the page does nothing, and is written down as refused."""
    with pytest.raises(NotAllowed, match="expire_quests is for operators only"):
        perform(game, actions.build_expire_quests())
    assert read_actions(game) == [("local", "expire_quests", "past their time", "refused")]
    [event] = game.list_audit_events()
    assert event.detail == "expire_quests is for operators only; sign in as an operator"


def test_a_refusal_that_cannot_be_written_down_is_one_all_the_same(
    game: EnhancedDatabaseService, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor gets the same answer; the log of the process and a counter have it."""
    execute("ALTER TABLE audit_events ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    with pytest.raises(NotAllowed, match="expire_quests is for operators only"):
        perform(game, actions.build_expire_quests())
    assert "expire_quests of 'local' (refused) could not be recorded" in caplog.text
    failures = read_own(game.metrics, "echo_audit_write_failures_total", action="expire_quests")
    assert failures == 1


def test_what_an_action_changes_is_written_down_with_it(operated: EnhancedDatabaseService) -> None:
    """Each expired quest, under the operator's name and with the action as its request."""
    alice = operated.get_user_by_username("alice")
    quest = operated.create_quest(
        alice.id,
        type="T",
        title="T",
        target_value=Decimal(1),
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    operated._clock = lambda: datetime.now(UTC) + timedelta(hours=2)
    perform(operated, actions.build_expire_quests())
    [event] = operated.list_audit_events()
    [change] = operated.list_audit_changes(row_key=quest.id)
    assert (change.actor, change.request_id) == ("local", str(event.id))
    assert (change.before, change.after) == ({"status": "ACTIVE"}, {"status": "EXPIRED"})


def test_it_asks_before_it_does(operated: EnhancedDatabaseService) -> None:
    """The first press opens a question; only its answer acts, and says what came of it."""
    test = open_panel()
    test.button(key="operator-warm").click().run()
    assert read_actions(operated) == []
    test.button(key="operator-confirm").click().run()
    assert read_actions(operated) == [("local", "warm_cache", "most active players", "done")]
    assert "keys are in the cache" in test.success[0].value
    assert "operator-confirm" not in {button.key for button in test.button}
    assert list(test.dataframe[0].value["Who"]) == ["local"]


def test_a_players_cache_is_cleared(operated: EnhancedDatabaseService, redis_client: Any) -> None:
    """The profile leaves Redis; the record names the player."""
    alice = operated.get_user_by_username("alice")
    operated.get_user_by_id(alice.id)
    assert redis_client.exists(user_key(alice.id))
    test = open_panel()
    test.text_input(key="operator-player").input("alice").run()
    test.button(key="operator-clear-player").click().run()
    test.button(key="operator-confirm").click().run()
    assert read_actions(operated) == [("local", "clear_cache", "player alice", "done")]
    assert "Cached data of alice removed" in test.success[0].value.replace("\\", "")


def test_an_unknown_player_is_named(operated: EnhancedDatabaseService) -> None:
    """Nothing is asked, nothing is written down."""
    test = open_panel()
    test.text_input(key="operator-player").input("zorro").run()
    test.button(key="operator-clear-player").click().run()
    assert "No player is called “zorro”" in test.warning[0].value
    assert read_actions(operated) == []


def test_a_session_is_closed(operated: EnhancedDatabaseService, execute: Execute) -> None:
    """Its entries get their final ranks; those of other sessions stay without."""
    test = open_panel()
    test.selectbox(key="operator-session").select(SESSIONS[1]).run()
    test.button(key="operator-close-session").click().run()
    test.button(key="operator-confirm").click().run()
    rows = execute("SELECT DISTINCT session_date, rank IS NULL FROM leaderboard_entries ORDER BY 1")
    assert rows == [(SESSIONS[0], True), (SESSIONS[1], False), (SESSIONS[2], True)]
    assert read_actions(operated) == [("local", "close_session", "session 2013-02-28", "done")]


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (actions.build_clear_market, "clear_cache"),
        (actions.build_expire_quests, "expire_quests"),
        (lambda: actions.build_close_session(date(2013, 3, 1)), "close_session"),
        (lambda: actions.build_clear_player("bob"), "clear_cache"),
    ],
)
def test_every_action_is_written_down(
    operated: EnhancedDatabaseService, build: Callable[[], Action], kind: str
) -> None:
    """One record each, with its outcome."""
    perform(operated, build())
    [(actor, action, _, outcome)] = read_actions(operated)
    assert (actor, action, outcome) == ("local", kind, "done")


def test_acting_too_often_is_refused(operated: EnhancedDatabaseService) -> None:
    """Counted and told when to come back; what is refused is not done, and is written down as refused."""
    limits = RateLimits(count=operated.metrics.count_limited)
    sign_in.set_policy(Policy(is_local_operator=True), limits=limits, actions_per_minute=2)
    action = actions.build_expire_quests()
    perform(operated, action)
    perform(operated, action)
    with pytest.raises(NotAllowed, match=r"too many actions per minute; try again in \d+ seconds"):
        perform(operated, action)
    assert [outcome for *_, outcome in read_actions(operated)] == ["done", "done", "refused"]
    for name, count in (("requests", 3), ("rejections", 1)):
        assert read_own(operated.metrics, f"echo_ratelimit_{name}_total", limiter="operator_actions") == count


def test_what_cannot_be_written_down_is_not_done(operated: EnhancedDatabaseService, execute: Execute) -> None:
    """Without the record no rank is stored, and the operator is told."""
    execute("ALTER TABLE audit_events ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    test = open_panel()
    test.selectbox(key="operator-session").select(SESSIONS[1]).run()
    test.button(key="operator-close-session").click().run()
    test.button(key="operator-confirm").click().run()
    assert "failed" in test.error[0].value
    assert execute("SELECT count(*) FROM leaderboard_entries WHERE rank IS NOT NULL") == [(0,)]


def test_no_action_is_done_that_redis_cannot_count(
    operated: EnhancedDatabaseService, settings: Settings
) -> None:
    """Or an operator could do everything at once by stopping Redis; the operator is told why."""
    gone = settings.model_copy(
        update={
            "enable_redis_cache": True,
            "redis_url": SecretStr(f"redis://127.0.0.1:{find_free_port()}/0"),
        }
    )
    with closing(open_rate_limits(gone, role="dashboard", count=operated.metrics.count_limited)) as limits:
        sign_in.set_policy(Policy(is_local_operator=True), limits=limits)
        with pytest.raises(NotAllowed, match="Redis does not answer"):
            perform(operated, actions.build_expire_quests())
    assert [outcome for *_, outcome in read_actions(operated)] == ["refused"]
