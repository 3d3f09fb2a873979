"""Reads secrets from files: a secret setting X can also be given as X_FILE, the path of a file.

Owns the rules for the files that are accepted. Messages contain no content of a file.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from core.errors import SettingsError
from core.logs import escape_controls

SHOWN_CHARACTERS = 300
MAX_BYTES = 1_000_000  # a limit, because a file such as /dev/zero has no end


class FileSecret(SecretStr):
    """A secret that was read from a file. `read_again` returns the secret after a change of the file."""

    def __init__(self, path: Path, *, name: str) -> None:
        super().__init__(read_secret(path, name=name))
        self._path, self._name = path, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and self.get_secret_value() == other.get_secret_value()

    __hash__ = SecretStr.__hash__

    def read_again(self) -> str | None:
        """Return the secret that the file contains now, or None if the file cannot be read or used."""
        try:
            return read_secret(self._path, name=self._name)
        except SettingsError:
            return None


class SecretFileSource(PydanticBaseSettingsSource):
    """Wraps a source of settings: if the source has X_FILE, the value of X is read from that file.

    One source must not have both X and X_FILE. If one source has X and another
    has X_FILE, the order of the sources decides.
    """

    def __init__(self, source: EnvSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source
        self._values: dict[str, Any] | None = None
        self.file = getattr(source, "env_file", None)
        """The settings file that this source reads; None for the environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value that the wrapped source has for a field; pydantic requires this method."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """Return the values of the wrapped source, and the secrets in files. Raises `SettingsError`."""
        if self._values is None:
            # keep the values, because a pipe can be read only once
            self._values = self._read()
        return self._values

    def _read(self) -> dict[str, Any]:
        values = dict(self._source())
        for field in list_secrets(self.settings_cls):
            path = self._source.env_vars.get(f"{field}_file")
            if not path:
                continue
            name = field.upper()
            if self._source.env_vars.get(field):
                raise SettingsError(f"{name} and {name}_FILE are both set; set one of them")
            values[field] = FileSecret(Path(path), name=f"{name}_FILE")
        return values


def list_secrets(kind: type[BaseSettings]) -> Iterator[str]:
    """Yield the name of each field with a secret value in a settings class."""
    return (name for name, field in kind.model_fields.items() if has_secret(field.annotation))


def has_secret(annotation: Any) -> bool:
    """Return whether a field with this annotation has secret values."""
    return annotation is SecretStr or any(map(has_secret, get_args(annotation)))


def read_secret(path: Path, *, name: str) -> str:
    """Return the text of a file, without one newline at its end. `name` is the setting with the path.

    Raises `SettingsError` if the file cannot be read, is empty, is too large, is not UTF-8 text, or can be
    used by too many users (`is_too_open`). If the path looks like a secret, the message does not show it.
    """
    shown = escape_controls(str(path)[:SHOWN_CHARACTERS])
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        # the setting may contain the secret itself instead of a path
        is_path = "/" in shown and not re.search("[:@=]", shown)
        what = shown if is_path else "(hidden, because it may be the secret)"
        raise SettingsError(f"{name} names {what}, which cannot be read: {reason}") from None
    if is_too_open(found):
        mode = stat.S_IMODE(found.st_mode)
        raise SettingsError(
            f"{name} names {shown}, which other users can read or write (mode {mode:04o});"
            " `chmod 600` it, and change the secret if others may have read it"
        )
    if len(content) > MAX_BYTES:
        raise SettingsError(
            f"{name} names {shown}, which has more than {MAX_BYTES} bytes; is it the right file?"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{name} names {shown}, which is not UTF-8 text; save it as UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SettingsError(f"{name} names {shown}, which is empty; write the secret into it")
    return text


def is_too_open(found: os.stat_result) -> bool:
    """Return whether the mode of a file gives other users too many rights for a secret.

    If the file belongs to the user of this process, other users must have no access. If it belongs to another
    user, an orchestrator has put it there, often with the right to read for every user in the
    container. Then other users may read the file, but must not have the right to write it.
    """
    if not stat.S_ISREG(found.st_mode):
        return False
    others = stat.S_IRWXG | stat.S_IRWXO if found.st_uid == os.geteuid() else stat.S_IWGRP | stat.S_IWOTH
    return bool(found.st_mode & others)
