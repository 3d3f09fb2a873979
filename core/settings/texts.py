"""Checks that several settings share: for control characters, hosts, ports and web addresses.

Messages do not contain the checked text, which may be a secret.
"""

import re
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

LOOPBACK: Final = "127.0.0.1"
HIGHEST_PORT: Final = 65_535
MAX_CHARACTERS: Final = 100_000
# Characters that are forbidden in all settings: NUL ends a text in C, and UTF-8 cannot encode a surrogate.
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
# Characters that are forbidden in all settings but secrets: they end a line, move the cursor, change the
# direction of writing, or are invisible.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# Matches a host name as in RFC 1035, 2.3.4. An underscore is allowed too: names of containers may have it.
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class TextError(ValueError):
    """The text of a setting is wrong. The message says how to correct it."""


def reveal(value: Any) -> str:
    """Return the text of a `str` or `SecretStr`, or "" for any other value."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return text if isinstance(text, str) else ""


def check_characters(text: str, *, is_secret: bool) -> None:
    """Raise `TextError` if the text is too long, or has a character that a setting must not have.

    A secret may have any control character but NUL: a password can be any text, and ENCRYPTION_KEYS has
    several lines.
    """
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"it has more than {MAX_CHARACTERS} characters")
    found = (_FORBIDDEN if is_secret else _CONTROL).search(text)
    if found:
        raise TextError(f"character {found.start() + 1} is U+{ord(found[0]):04X}, which has to be removed")


def is_host(text: str) -> bool:
    """Return whether a text is an IP address without brackets, or has the form of a host name."""
    if _HOST.fullmatch(text):
        return True
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_port(text: str) -> bool:
    """Return whether a text is the number of a TCP port."""
    return re.fullmatch("[0-9]{1,5}", text) is not None and 0 < int(text) <= HIGHEST_PORT


def check_listener(host: str) -> str:
    """Return `host` if a server can listen on it: an IP address, a name, or "", which means every address.

    Raises `TextError`.
    """
    if host and not is_host(host):
        raise TextError("an address has no port and no brackets")
    return host


def check_web_address(url: str) -> str:
    """Return `url` if it is an http or https URL. Raises `TextError`."""
    if not re.fullmatch("[!-~]*", url):
        raise TextError("spaces and characters outside ASCII have to be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise TextError("the host or the port is wrong") from None
    if parts.scheme not in {"http", "https"}:
        raise TextError("the scheme has to be http or https")
    if not is_host(parts.hostname or "") or port == 0:
        raise TextError("the host or the port is wrong")
    return url


def check_base_url(value: SecretStr) -> SecretStr:
    """Return the URL of a server if a path can be added to it: it has no query and no fragment.

    Raises `TextError`.
    """
    url = check_web_address(value.get_secret_value())
    if "?" in url or "#" in url:
        raise TextError("paths are added to it, so it has no query and no fragment")
    return value
