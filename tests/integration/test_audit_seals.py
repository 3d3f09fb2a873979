"""Tests of the audit log's seals: `verify_audit_log` finds each change of a sealed event."""

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.cli import main
from core.database.privileges import hand_over
from core.database.roles import open_administrator
from core.errors import DatabaseError, InvalidInput, MigrationFailed
from core.migration import Migrator
from core.records import AuditBreak, User
from core.stack.backup import build_dump_command, build_restore_command
from tests.conftest import AS_APP, Execute
from tests.integration.plans import count_reads

DAY = date(2026, 3, 2)
WRITERS, WRITER_SECONDS = 8, 2.0
# This setting turns the triggers off. Only a superuser may set it.
AS_SUPERUSER = "SET session_replication_role = replica; "


class RolledBack(Exception):
    """Ends a transaction without a commit."""


@pytest.fixture
def sealed(service: EnhancedDatabaseService) -> list[UUID]:
    """Record nine sign-ins with a seal after every third. Return the event ids, oldest first."""
    for seal in range(3):
        for n in range(3):
            service.record_audit_event(actor=f"actor {seal} {n}", action="sign_in", target="dashboard")
        assert service.seal_audit_log().events == 3
    return [event.id for event in reversed(service.list_audit_events())]


def test_an_unchanged_log_is_intact(
    service: EnhancedDatabaseService, sealed: list[UUID], alice: User
) -> None:
    """A log with actions and row changes is intact, before and after its last events are sealed.

    A second call of `seal_audit_log` without new events seals nothing.
    """
    with service.acting_as("operator"):
        service.update_user_profile(alice.id, name="A", preferences={"ü": [1.5, None]})
        service.get_current_portfolio(alice.id, DAY)
    service.record_audit_event(actor="a", action="sign_out", target="t", outcome="failed", detail="ü\n'\"")
    waiting = service.verify_audit_log()
    assert (waiting.seals, waiting.events, waiting.unsealed, waiting.broken) == (3, 9, 3, None)
    sealing = service.seal_audit_log()
    assert sealing.events == 3
    assert service.seal_audit_log() == type(sealing)(0, sealing.anchor)
    result = service.verify_audit_log(anchor=sealing.anchor)
    assert (result.seals, result.events, result.unsealed, result.broken) == (4, 12, 0, None)
    assert result.anchor == sealing.anchor


def test_an_empty_log_is_intact(service: EnhancedDatabaseService) -> None:
    """A log without events gets no seal and is intact."""
    assert service.seal_audit_log().anchor is None
    result = service.verify_audit_log()
    assert (result.seals, result.unsealed, result.anchor, result.broken) == (0, 0, None, None)


# Statement of a superuser, and the expected break: kind, number of the seal, index of the event in `sealed`.
TAMPERED: dict[str, tuple[str, tuple[str, int, int | None]]] = {
    "an actor": ("UPDATE audit_events SET actor = 'mallory' WHERE id = %(e4)s", ("event_changed", 2, 4)),
    "a time": (
        "UPDATE audit_events SET created_at = created_at - interval '1 hour' WHERE id = %(e4)s",
        # each seal covers a range of times; the changed time is outside of it, so the event counts as removed
        ("event_removed", 2, 4),
    ),
    "a time within its seal": (
        "UPDATE audit_events SET created_at = created_at + interval '1 microsecond' WHERE id = %(e4)s",
        ("event_changed", 2, 4),
    ),
    "a detail": ("UPDATE audit_events SET detail = '' WHERE id = %(e8)s", ("event_changed", 3, 8)),
    "a document": ("UPDATE audit_events SET after = '{}' WHERE id = %(e0)s", ("event_changed", 1, 0)),
    "a transaction": (
        "UPDATE audit_events SET transaction_id = transaction_id + 1000 WHERE id = %(e0)s",
        ("event_changed", 1, 0),
    ),
    "removed": ("DELETE FROM audit_events WHERE id = %(e5)s", ("event_removed", 2, 5)),
    "all removed": ("DELETE FROM audit_events", ("event_removed", 1, 0)),
    "the first of two": (
        "UPDATE audit_events SET actor = 'mallory' WHERE id IN (%(e4)s, %(e7)s)",
        ("event_changed", 2, 4),
    ),
    "the list of a seal": (
        "UPDATE audit_seals SET manifest = substr(manifest, 1, 96) WHERE number = 2",
        ("seal_changed", 2, None),
    ),
    "the number of events": ("UPDATE audit_seals SET events = 2 WHERE number = 2", ("seal_changed", 2, None)),
    "a hash": ("UPDATE audit_seals SET hash = sha256('x') WHERE number = 3", ("seal_changed", 3, None)),
    "the partition": (
        "UPDATE audit_seals SET partition = 'audit_events_2000_01' WHERE number = 2",
        ("seal_changed", 2, None),
    ),
    "the first seal": ("DELETE FROM audit_seals WHERE number = 1", ("seal_removed", 1, None)),
    "a seal between": ("DELETE FROM audit_seals WHERE number = 2", ("seal_removed", 2, None)),
    "a seal and its number": (
        "DELETE FROM audit_seals WHERE number = 2; UPDATE audit_seals SET number = 2 WHERE number = 3",
        ("seal_changed", 2, None),
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_superusers_change_is_found(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID], name: str
) -> None:
    """Verification reports the first event or seal that a superuser has changed or removed."""
    statement, (kind, seal, event_index) = TAMPERED[name]
    execute(AS_SUPERUSER + statement, {f"e{n}": str(event_id) for n, event_id in enumerate(sealed)})
    found = service.verify_audit_log().broken
    assert found == AuditBreak(kind, seal, None if event_index is None else sealed[event_index])  # type: ignore[arg-type]  # a kind


# SQL expression of a different value, by the column's type.
DIFFERENT_VALUES = {
    "uuid": "gen_random_uuid()",
    "text": "coalesce({0}, '') || '.'",
    "character varying": "coalesce({0}, '') || '.'",
    "timestamp with time zone": "{0} + interval '1 microsecond'",
    "jsonb": """coalesce({0}, '{{}}') || '{{"a": 1}}'""",
    "integer": "{0} + 10",
    "bigint": "{0} + 10",
    "numeric": "coalesce({0}, 0) + 1",
    "xid8": "({0}::text::numeric + 1)::text::xid8",
    "bytea": r"{0} || '\\x00'",
}
LIST_COLUMNS = """
    SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"""
LIST_CHECKS = "SELECT conname::text FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'"


@pytest.mark.parametrize("table", ["audit_events", "audit_seals"])
def test_a_change_of_any_column_is_found(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID], table: str
) -> None:
    """Verification finds a changed value in every column, so a new column must be part of the digests."""
    execute(f"CREATE TABLE kept AS TABLE {table}")
    for (check,) in execute(LIST_CHECKS, (table,)):
        execute(f"ALTER TABLE {table} DROP CONSTRAINT {check}")
    is_one = f"id = '{sealed[4]}'" if table == "audit_events" else "number = 2"
    for column, kind in execute(LIST_COLUMNS, (table,)):
        execute(
            AS_SUPERUSER
            + f"UPDATE {table} SET {column} = {DIFFERENT_VALUES[kind].format(column)} WHERE {is_one}"
        )
        broken = service.verify_audit_log().broken
        assert broken is not None, column
        assert broken.seal in (2, 3), column
        execute(AS_SUPERUSER + f"DELETE FROM {table}; INSERT INTO {table} TABLE kept")
        assert service.verify_audit_log().broken is None, column


def test_a_backdated_event_is_found(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """Verification finds an event that was added with the time and transaction id of a sealed event.

    Later seals do not hide it.
    """
    [(added,)] = execute(
        "INSERT INTO audit_events (actor, action, target, created_at, transaction_id)"
        " SELECT 'mallory', 'sign_in', 'dashboard', created_at, transaction_id FROM audit_events"
        " WHERE id = %s RETURNING id",
        (str(sealed[4]),),
    )
    for _ in range(2):
        assert service.verify_audit_log().broken == AuditBreak("event_added", 3, UUID(str(added)))
        service.seal_audit_log()


def rehash_seal(execute: Execute, number: int) -> None:
    """Give a changed seal the hash of its new content."""
    execute(
        AS_SUPERUSER
        + """UPDATE audit_seals SET hash = sha256(convert_to(jsonb_build_array(
            number, EXTRACT(epoch FROM sealed_at), partition, EXTRACT(epoch FROM first_at),
            EXTRACT(epoch FROM last_at), events, up_to, system)::text, 'UTF8') || previous_hash || manifest)
        WHERE number = %s""",
        (number,),
    )


def test_a_rehashed_seal_breaks_the_chain(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """A changed seal with a matching hash is found, because the next seal contains its old hash."""
    execute(AS_SUPERUSER + "UPDATE audit_seals SET sealed_at = now() WHERE number = 2")
    rehash_seal(execute, 2)
    assert service.verify_audit_log().broken == AuditBreak("seal_changed", 2)


def test_an_anchor_detects_a_removed_newest_seal(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """Only an anchor, kept outside of the database, shows that the newest seal was removed or replaced."""
    anchor = service.seal_audit_log().anchor
    assert anchor is not None
    execute(AS_SUPERUSER + "DELETE FROM audit_seals WHERE number = 3")
    assert service.verify_audit_log().broken is None
    assert service.verify_audit_log(anchor=anchor).broken == AuditBreak("seal_removed", 3)
    execute(AS_SUPERUSER + "UPDATE audit_events SET actor = 'mallory' WHERE id = %s", (str(sealed[8]),))
    service.seal_audit_log()
    assert service.verify_audit_log().broken is None
    assert service.verify_audit_log(anchor=anchor).broken == AuditBreak("seal_changed", 3)


@pytest.mark.parametrize("anchor", ["", "1", "1:abc", f"0:{'0' * 64}", f"1:{'0' * 64}\n", 5])
def test_a_malformed_anchor_is_refused(service: EnhancedDatabaseService, anchor: Any) -> None:
    """`verify_audit_log` refuses an anchor that is not a seal's number, a colon and its hash."""
    with pytest.raises(InvalidInput, match="anchor is"):
        service.verify_audit_log(anchor=anchor)


# -- transactions that commit late -------------------------------------------------------------


@pytest.fixture
def other_session(database_url: str) -> Iterator[Callable[..., Any]]:
    """Yield a function that runs SQL in another session, whose transaction stays open until COMMIT."""
    connection = psycopg2.connect(database_url)

    def run(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    try:
        yield run
    finally:
        connection.close()


INSERT = "INSERT INTO audit_events (actor, action, target) VALUES ('late', 'sign_in', 'dashboard')"


def test_a_transaction_that_commits_late_is_sealed_later(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID], other_session: Callable[..., Any]
) -> None:
    """Events of a long transaction are sealed once, after its commit and after the seals of later events."""
    other_session(INSERT)
    for expected in (1, 1):
        service.record_audit_event(actor="a", action="sign_in", target="t")
        assert service.seal_audit_log().events == expected
    assert service.verify_audit_log().broken is None
    other_session(f"{INSERT}; COMMIT")
    waiting = service.verify_audit_log()
    assert (waiting.broken, waiting.unsealed) == (None, 2)
    assert service.seal_audit_log().events == 2
    assert service.seal_audit_log().events == 0
    result = service.verify_audit_log()
    assert (result.broken, result.unsealed, result.events) == (None, 0, 13)


def test_a_late_transaction_id_is_sealed_later(
    service: EnhancedDatabaseService, sealed: list[UUID], other_session: Callable[..., Any]
) -> None:
    """If a transaction begins before a seal and gets its id after it, the next seal has its event."""
    other_session("SELECT 1")
    service.record_audit_event(actor="a", action="sign_in", target="t")
    assert service.seal_audit_log().events == 1
    other_session(f"{INSERT}; COMMIT")
    assert service.seal_audit_log().events == 1
    assert service.verify_audit_log().broken is None


@pytest.mark.slow
def test_many_writers_and_sealers_leave_an_intact_log(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """Eight writers with commits and rollbacks run beside two sealers; each event is sealed exactly once."""
    until = time.monotonic() + WRITER_SECONDS

    def write(number: int) -> int:
        written = 0
        for count in itertools.count():
            if time.monotonic() > until:
                return written
            with (
                suppress(RolledBack),
                service.acting_as(f"writer {number}"),
                service.transaction(),
            ):
                for step in range(1 + count % 3):
                    score = Decimal(1 + count * 10 + step)
                    service.update_leaderboard_entry(alice.id, f"c{number}", score, DAY)
                if count % 5 == 0:
                    raise RolledBack
                written += 1 + count % 3
        raise AssertionError

    def seal() -> int:
        while time.monotonic() < until:
            service.seal_audit_log()
            assert service.verify_audit_log().broken is None
        return 0

    with ThreadPoolExecutor(WRITERS + 2) as threads:
        running = [threads.submit(write, number) for number in range(WRITERS)]
        running += [threads.submit(seal) for _ in range(2)]
    written = sum(future.result() for future in running)
    service.seal_audit_log()
    result = service.verify_audit_log()
    assert (result.broken, result.unsealed) == (None, 0)
    [(events, different)] = execute("SELECT count(*), count(DISTINCT id) FROM audit_events")
    assert result.events == events == different == written > 0


# -- monthly partitions and other servers ------------------------------------------------------


@pytest.fixture
def old_month(service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]) -> str:
    """Create the partition of a month about 100 days ago, with one sealed event. Return its name."""
    old = datetime.now(UTC).replace(day=1) - timedelta(days=100)
    [(name,)] = execute("SELECT audit_create_month(date_trunc('month', %s, 'UTC'))", (old,))
    execute(
        "INSERT INTO audit_events (actor, action, target, created_at) VALUES ('a', 'sign_in', 't', %s)",
        (old,),
    )
    assert service.seal_audit_log().events == 1
    return str(name)


def set_keep_months(settings: Settings, months: int) -> None:
    """Set AUDIT_KEEP_MONTHS as the owner does, with `migrate up`."""
    Migrator(settings.model_copy(update={"audit_keep_months": months})).up()


def test_monthly_partitions_are_created_and_dropped(
    service: EnhancedDatabaseService, settings: Settings, old_month: str
) -> None:
    """`maintain_audit_log` drops old months and creates coming ones; the chain of seals stays intact.

    The seals of a dropped month stay, and a new seal records the drop.
    """
    set_keep_months(settings, 2)
    assert service.maintain_audit_log(keep_months=5).dropped == ()
    before = service.verify_audit_log()
    assert before.events == 10
    assert service.maintain_audit_log(keep_months=2).dropped == (old_month,)
    assert service.maintain_audit_log(keep_months=2).dropped == ()
    result = service.verify_audit_log(anchor=before.anchor)
    assert (result.events, result.dropped, result.broken) == (9, 1, None)
    assert result.seals == before.seals + 1
    assert len(service.maintain_audit_log(months_ahead=4).created) == 2
    service.record_audit_event(actor="a", action="sign_in", target="t")
    assert service.seal_audit_log().events == 1
    assert service.verify_audit_log(anchor=result.anchor).broken is None


def test_the_owner_decides_how_many_months_are_kept(
    service: EnhancedDatabaseService, settings: Settings, old_month: str
) -> None:
    """`keep_months` below the owner's AUDIT_KEEP_MONTHS raises an error; by default all months are kept.

    `migrate up` with AUDIT_KEEP_MONTHS changes the stored number, and without the setting keeps it.
    """
    with pytest.raises(DatabaseError, match=r"keep_months is 1200, and the owner .* keeps all months"):
        service.maintain_audit_log(keep_months=1_200)
    set_keep_months(settings, 3)
    Migrator(settings).up()
    with pytest.raises(DatabaseError, match=r"keep_months is 2, and the owner .* keeps 3 months"):
        service.maintain_audit_log(keep_months=2)
    assert service.verify_audit_log().dropped == 0
    set_keep_months(settings, 0)
    with pytest.raises(DatabaseError, match="keeps all months"):
        service.maintain_audit_log(keep_months=3)


def test_an_unrecorded_drop_of_a_month_is_found(
    service: EnhancedDatabaseService, settings: Settings, execute: Execute, old_month: str
) -> None:
    """Verification finds a month that was dropped without a seal of the drop, also after later seals."""
    execute(f"DROP TABLE {old_month}")
    set_keep_months(settings, 1)
    for _ in range(2):
        assert service.verify_audit_log().broken == AuditBreak("month_removed", 4)
        service.maintain_audit_log(keep_months=1)
        service.record_audit_event(actor="a", action="sign_in", target="t")
        service.seal_audit_log()


def test_the_drop_of_an_empty_month_is_recorded(
    service: EnhancedDatabaseService, settings: Settings, execute: Execute
) -> None:
    """The drop of a month without events is recorded by a seal, even if this is the first seal."""
    execute("SELECT audit_create_month(date_trunc('month', now() - interval '100 days', 'UTC'))")
    set_keep_months(settings, 1)
    assert len(service.maintain_audit_log(keep_months=1).dropped) == 1
    service.record_audit_event(actor="a", action="sign_in", target="t")
    assert service.seal_audit_log().events == 1
    result = service.verify_audit_log()
    assert (result.seals, result.events, result.dropped, result.broken) == (2, 1, 0, None)


def test_the_migration_records_months_dropped_earlier(
    service: EnhancedDatabaseService, settings: Settings, execute: Execute, old_month: str
) -> None:
    """The migration adds a seal for months dropped before it ran; with this seal it cannot be reverted."""
    Migrator(settings).down("0025_audit_retention")
    assert service.maintain_audit_log(keep_months=2).dropped == (old_month,)
    Migrator(settings).up()
    result = service.verify_audit_log()
    assert (result.dropped, result.broken) == (1, None)
    with pytest.raises(MigrationFailed, match="earlier code cannot read their seals"):
        Migrator(settings).down("0025_audit_retention")


def test_the_result_of_a_verification_is_a_metric(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """The gauge `echo_audit_intact` is 1 or 0 after a verification, and is absent before the first one."""
    assert read_metric(service, "echo_audit_intact") is None
    service.verify_audit_log()
    assert read_metric(service, "echo_audit_intact") == 1
    verified_at = read_metric(service, "echo_audit_verification_timestamp_seconds")
    execute(AS_SUPERUSER + "DELETE FROM audit_events WHERE id = %s", (str(sealed[0]),))
    service.verify_audit_log()
    assert read_metric(service, "echo_audit_intact") == 0
    newest = read_metric(service, "echo_audit_verification_timestamp_seconds")
    assert verified_at is not None
    assert newest is not None
    assert time.time() - 600 < verified_at < newest <= time.time()


def read_metric(service: EnhancedDatabaseService, name: str) -> float | None:
    """Return the value of a metric of this service, or None if it has no sample."""
    service.metrics.publish()
    samples = [sample for family in service.metrics.collect_own() for sample in family.samples]
    return next((sample.value for sample in samples if sample.name == name), None)


def test_a_dumped_and_restored_log_is_intact(
    service: EnhancedDatabaseService,
    settings: Settings,
    database_url: str,
    empty_database_url: str,
    old_month: str,
) -> None:
    """A log restored with pg_dump and pg_restore is intact, and sealing continues.

    The dump keeps the columns of the digests, the record of dropped months and the number of months to keep.
    """
    set_keep_months(settings, 2)
    with service.acting_as("operator"):
        service.create_user(username="alice", name="Älice \U0001f4a5", preferences={"a": [1.50, "\u2028"]})
    service.maintain_audit_log(keep_months=2)
    before = service.verify_audit_log()
    program = build_dump_command(database_url)
    dump = subprocess.run(
        program.command, env={**os.environ, **program.environment}, capture_output=True, check=True
    ).stdout
    if AS_APP:
        with open_administrator(empty_database_url) as admin:
            hand_over(admin)
    program = build_restore_command(empty_database_url)
    subprocess.run(program.command, env={**os.environ, **program.environment}, input=dump, check=True)
    with open_service(
        settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    ) as restored:
        result = restored.verify_audit_log(anchor=before.anchor)
        assert (result.events, result.dropped, result.unsealed, result.broken) == (10, 1, 0, None)
        with restored.acting_as("operator"):
            restored.create_user(username="bob")
        assert restored.seal_audit_log().events == 1
        with pytest.raises(DatabaseError, match="keeps 2 months"):
            restored.maintain_audit_log(keep_months=1)
        assert restored.verify_audit_log(anchor=before.anchor).broken is None


def test_events_in_the_default_partition_are_sealed(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """An event in the default partition is sealed, and maintenance creates no partition for its month."""
    future = datetime.now(UTC).replace(day=15) + timedelta(days=150)
    execute(
        "INSERT INTO audit_events (actor, action, target, created_at) VALUES ('a', 'sign_in', 't', %s)",
        (future,),
    )
    created = service.maintain_audit_log(months_ahead=5).created
    assert f"audit_events_{future:%Y_%m}" not in created
    assert service.seal_audit_log().events == 0
    assert service.verify_audit_log().events == 10


def test_a_log_restored_on_another_server_can_be_sealed(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """After a restore on a server with lower transaction ids, old unsealed and new events can be sealed."""
    execute(
        "INSERT INTO audit_events (actor, action, target, transaction_id)"
        " VALUES ('waits', 'sign_in', 't', 1000000000)"
    )
    # as if the events came from another server whose transaction ids were higher
    execute(AS_SUPERUSER + "UPDATE audit_events SET transaction_id = transaction_id + 900000000")
    execute(AS_SUPERUSER + "DELETE FROM audit_seals; SET session_replication_role = origin")
    assert service.seal_audit_log().events == 10
    execute(AS_SUPERUSER + "UPDATE audit_seals SET system = 1, up_to = 950000000")
    rehash_seal(execute, 1)
    execute(
        "INSERT INTO audit_events (actor, action, target, transaction_id)"
        " VALUES ('waits too', 'sign_in', 't', 1000000001)"
    )
    service.record_audit_event(actor="a", action="sign_in", target="t")
    waiting = service.verify_audit_log()
    assert (waiting.broken, waiting.unsealed) == (None, 2)
    assert service.seal_audit_log().events == 2
    service.record_audit_event(actor="a", action="sign_in", target="t")
    assert service.seal_audit_log().events == 1
    result = service.verify_audit_log()
    assert (result.broken, result.unsealed, result.events) == (None, 0, 13)


# -- the command line --------------------------------------------------------------------------


def test_the_commands_seal_and_verify(
    settings: Settings,
    service: EnhancedDatabaseService,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    sealed: list[UUID],
) -> None:
    """`audit verify` exits with 0 for an intact log, 1 for a changed event, and 2 for a malformed anchor."""
    monkeypatch.setattr(Settings, "load", lambda: settings)
    service.record_audit_event(actor="a", action="sign_in", target="t")
    seal = CliRunner().invoke(main, ["audit", "seal"])
    assert seal.exit_code == 0
    first, second = seal.output.splitlines()
    assert first == "sealed 1 events"
    anchor = second.removeprefix("newest seal ")
    verified = CliRunner().invoke(main, ["audit", "verify", "--anchor", anchor])
    assert verified.exit_code == 0
    assert verified.output.splitlines() == [
        "4 seals are intact, with 10 events; 0 events were dropped with their months, 0 are not sealed yet",
        f"newest seal {anchor}",
    ]
    assert CliRunner().invoke(main, ["audit", "verify", "--anchor", "4"]).exit_code == 2
    execute(AS_SUPERUSER + "UPDATE audit_events SET actor = 'mallory' WHERE id = %s", (str(sealed[0]),))
    broken = CliRunner().invoke(main, ["audit", "verify"])
    assert broken.exit_code == 1
    assert f"at seal 1: the event {sealed[0]} was changed" in broken.output


def test_a_seal_reads_only_new_events(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """Sealing an event after 20,000 sealed ones reads under 1,000 rows, also in a session's eighth call."""
    execute(
        "INSERT INTO audit_events (actor, action, target)"
        " SELECT 'a', 'sign_in', 't' FROM generate_series(1, 20000)"
    )
    assert service.seal_audit_log().events == 20_000
    execute("ANALYZE audit_events")
    month = f"audit_events_{datetime.now(UTC):%Y_%m}"
    for _ in range(8):
        execute("INSERT INTO audit_events (actor, action, target) VALUES ('a', 'sign_in', 't')")
        reads = count_reads(execute, "SELECT audit_seal()", None, month)
        execute("SELECT audit_seal()")
    assert reads.entries < 1_000
    assert service.verify_audit_log().broken is None


def test_sealing_old_events_reads_few_seals(
    service: EnhancedDatabaseService, execute: Execute, sealed: list[UUID]
) -> None:
    """Sealing 50 events that are older than 5,000 seals reads under 1,000 rows of `audit_seals`.

    After a restore every event is older than the seals. Comparing each with all seals would take hours.
    """
    execute(
        """INSERT INTO audit_seals
        SELECT 3 + n, sealed_at, partition, first_at + n * interval '1 minute',
               last_at + n * interval '1 minute', events, up_to, system, manifest, previous_hash, hash
        FROM audit_seals, generate_series(1, 5000) n WHERE number = 3;
        ANALYZE audit_seals"""
    )
    execute(
        "INSERT INTO audit_events (actor, action, target)"
        " SELECT 'a', 'sign_in', 't' FROM generate_series(1, 50)"
    )
    reads = count_reads(execute, "SELECT audit_seal()", None, "audit_seals")
    assert reads.entries < 1_000
