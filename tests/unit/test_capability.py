"""How the capability check judges the replies of a server, and how it describes an error."""

from typing import Any

import pytest

from core.cache.capability import HINTS, CapabilityCheck, Incapable, describe, evaluate, hide_addresses
from core.cache.connection import ErrorReply

OOM = ErrorReply("OOM command not allowed when used memory > 'maxmemory'.")
OOM_IN_SCRIPT_OF_6 = ErrorReply(
    "ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed"
)
STEPS = CapabilityCheck("", ()).list_recheck(3)
HEALTHY_REPLIES: dict[str, Any] = {
    "HELLO": {b"proto": 3, b"role": b"master"},
    "TIME": [b"1", b"2"],
    "SET": None,
    "MGET": [None],
    "UNLINK": 0,
    "EVAL": [b"", b""],
    "EVALSHA": ErrorReply("NOSCRIPT No matching script."),
}


def judge_with(**changed: Any) -> ErrorReply | None:
    """Judge the replies of a healthy server; the replies in `changed` replace some of them."""
    return evaluate(STEPS, [{**HEALTHY_REPLIES, **changed}[step.name] for step in STEPS])


def test_replies_of_a_healthy_server_are_accepted() -> None:
    """The replies of a healthy server are accepted; with RESP2 the reply to HELLO is a list."""
    assert judge_with() is None
    assert judge_with(HELLO=[b"server", b"redis", b"proto", 2, b"role", b"master"]) is None


def test_a_refusal_names_every_command() -> None:
    """The error has the first refusal's message and code, and names every refused command."""
    no_time, no_set = ErrorReply("NOPERM no 'time'"), ErrorReply("NOPERM no 'set'")
    with pytest.raises(ErrorReply, match=r"^NOPERM no 'time' \(refused: TIME, SET\)$") as caught:
        judge_with(TIME=no_time, SET=no_set)
    assert caught.value.code == "NOPERM"


@pytest.mark.parametrize("full", [OOM, OOM_IN_SCRIPT_OF_6])
def test_a_full_server_is_tolerated(full: ErrorReply) -> None:
    """A server with full memory is accepted, because it can invalidate, unless another reply is wrong."""
    assert judge_with(SET=full) is full
    with pytest.raises(ErrorReply, match="NOPERM"):
        judge_with(SET=full, UNLINK=ErrorReply("NOPERM no 'unlink'"))
    with pytest.raises(Incapable, match="READONLY its role is replica"):
        judge_with(SET=full, HELLO={b"proto": 3, b"role": b"slave"})


@pytest.mark.parametrize(
    ("name", "reply"),
    [("TIME", b"OK"), ("SET", b"OK"), ("MGET", None), ("UNLINK", b"QUEUED"), ("EVAL", 7), ("EVALSHA", 1)],
)
def test_a_reply_of_another_type_is_refused(name: str, reply: Any) -> None:
    """A reply of another type than that of Redis raises `Incapable`."""
    with pytest.raises(Incapable, match=f"it answers {name} in another way than Redis"):
        judge_with(**{name: reply})


@pytest.mark.parametrize("code", HINTS)
def test_a_code_with_a_hint_is_described_with_it(code: str) -> None:
    """The description of an error with a hint is the server's message and then the hint."""
    assert describe(ErrorReply(f"{code} words")) == f"{code} words; {HINTS[code]}"


def test_an_error_without_a_hint_is_described_by_its_message() -> None:
    """An operating system error, or an error code without a hint, is described by its message alone."""
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
def test_addresses_are_hidden(text: str, shown: str) -> None:
    """Addresses and host names are hidden in a reason, because more people read health than the log."""
    assert hide_addresses(text) == shown
