"""How the answers of a capability check are judged, and what is said of them."""

from typing import Any

import pytest

from core.cache.capability import HINTS, CapabilityCheck, Incapable, describe, evaluate, hide_addresses
from core.cache.connection import ErrorReply

OOM = ErrorReply("OOM command not allowed when used memory > 'maxmemory'.")
OOM_IN_SCRIPT_OF_6 = ErrorReply(
    "ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed"
)
STEPS = CapabilityCheck("", ()).list_recheck(3)
GOOD: dict[str, Any] = {
    "HELLO": {b"proto": 3, b"role": b"master"},
    "TIME": [b"1", b"2"],
    "SET": None,
    "MGET": [None],
    "UNLINK": 0,
    "EVAL": [b"", b""],
    "EVALSHA": ErrorReply("NOSCRIPT No matching script."),
}


def judge_with(**changed: Any) -> ErrorReply | None:
    """Judge good answers with some that are not."""
    return evaluate(STEPS, [{**GOOD, **changed}[step.name] for step in STEPS])


def test_good_answers_are_good() -> None:
    """EVALSHA of an unknown script must fail; on RESP2 the server answers with lists instead of maps."""
    assert judge_with() is None
    assert judge_with(HELLO=[b"server", b"redis", b"proto", 2, b"role", b"master"]) is None


def test_a_refusal_names_every_command() -> None:
    """The error begins with the first refusal of the server, whose code comes first."""
    no_time, no_set = ErrorReply("NOPERM no 'time'"), ErrorReply("NOPERM no 'set'")
    with pytest.raises(ErrorReply, match=r"^NOPERM no 'time' \(refused: TIME, SET\)$") as caught:
        judge_with(TIME=no_time, SET=no_set)
    assert caught.value.code == "NOPERM"


@pytest.mark.parametrize("full", [OOM, OOM_IN_SCRIPT_OF_6])
def test_a_full_server_is_tolerated(full: ErrorReply) -> None:
    """A server with full memory is tolerated, because it can invalidate; any other refusal is not."""
    assert judge_with(SET=full) is full
    with pytest.raises(ErrorReply, match="NOPERM"):
        judge_with(SET=full, UNLINK=ErrorReply("NOPERM no 'unlink'"))
    with pytest.raises(Incapable, match="READONLY its role is replica"):
        judge_with(SET=full, HELLO={b"proto": 3, b"role": b"slave"})


@pytest.mark.parametrize(
    ("name", "reply"),
    [("TIME", b"OK"), ("SET", b"OK"), ("MGET", None), ("UNLINK", b"QUEUED"), ("EVAL", 7), ("EVALSHA", 1)],
)
def test_an_answer_of_another_kind_is_none(name: str, reply: Any) -> None:
    """A reply of another type is refused: the server is not Redis."""
    with pytest.raises(Incapable, match=f"it answers {name} in another way than Redis"):
        judge_with(**{name: reply})


@pytest.mark.parametrize("code", HINTS)
def test_a_known_code_comes_with_what_to_do(code: str) -> None:
    """The hint for a known code stands after the server's message."""
    assert describe(ErrorReply(f"{code} words")) == f"{code} words; {HINTS[code]}"


def test_other_words_stand_alone() -> None:
    """An error of the system, or a code without a hint, is shown unchanged."""
    assert describe(OSError("Connection refused")) == "Connection refused"
    assert describe(ErrorReply("MISCONF cannot save")) == "MISCONF cannot save"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("MOVED 3999 127.0.0.1:6381", "MOVED 3999 (address)"),
        ("MOVED 3999 node-1.example:6381 (refused: SET)", "MOVED 3999 (address) (refused: SET)"),
        ("ASK 3999 [fe80::1]:6381", "ASK 3999 (address)"),
        ("certificate is not valid for 'cache.example'.", "certificate is not valid for its name."),
        (
            "IP address mismatch, certificate is not valid for '10.0.0.1'.",
            "IP address mismatch, certificate is not valid for its name.",
        ),
        ("ERR ACL failure in script: on @user_script:13.", "ERR ACL failure in script: on @user_script:13."),
        ("no answer within 250 ms", "no answer within 250 ms"),
        ("x" * 1_000, "x" * 400),
    ],
)
def test_no_address_is_shown(text: str, shown: str) -> None:
    """A health document is open to more people than the log."""
    assert hide_addresses(text) == shown
