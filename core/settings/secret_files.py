"""Secrets in files: a secret setting X can also be given as X_FILE, the path of a file with its value.

Owns which files are accepted. No message contains the content of a file.
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
MOST_BYTES = 1_000_000  # a path such as /dev/zero has no end


class FileSecret(SecretStr):
    """A secret that was read from a file; the file may contain another secret by now."""

    def __init__(self, path: Path, *, name: str) -> None:
        super().__init__(read_secret(path, name=name))
        self._path, self._name = path, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and self.get_secret_value() == other.get_secret_value()

    __hash__ = SecretStr.__hash__

    def read_again(self) -> str | None:
        """Return the secret that the file contains now; None when it cannot be read or used."""
        try:
            return read_secret(self._path, name=self._name)
        except SettingsError:
            return None


class SecretFileSource(PydanticBaseSettingsSource):
    """A source of variables that takes X from the file that X_FILE names.

    Within one source X and X_FILE exclude each other; between sources the usual precedence holds for both.
    """

    def __init__(self, source: EnvSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source
        self._values: dict[str, Any] | None = None
        self.file = getattr(source, "env_file", None)
        """The settings file that this source reads; None for the environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return what the source itself has for a field; pydantic requires this method."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """Return the values of the source, secrets in files included; raises `SettingsError`."""
        if self._values is None:
            # kept, because a pipe can be read only once
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
    """Yield the fields of a kind of settings whose values are secret."""
    return (name for name, field in kind.model_fields.items() if has_secret(field.annotation))


def has_secret(annotation: Any) -> bool:
    """Say whether values of an annotation are secret."""
    return annotation is SecretStr or any(map(has_secret, get_args(annotation)))


def read_secret(path: Path, *, name: str) -> str:
    """Return the text of a file without one newline at its end; `name` is the setting that has the path.

    Raises `SettingsError` for a file that cannot be read, is empty or not UTF-8 text, or that others can
    read or write. If the path looks like a secret, the message does not show it.
    """
    shown = escape_controls(str(path)[:SHOWN_CHARACTERS])
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(MOST_BYTES + 1)
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
    if len(content) > MOST_BYTES:
        raise SettingsError(
            f"{name} names {shown}, which has more than {MOST_BYTES} bytes; is it the right file?"
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
    """Say whether too many users can use a file.

    Other users must have no access to a file of the process's own user. A file of another user was put there
    by an orchestrator, often readable by everybody in a container with one user; others must not write to it.
    """
    if not stat.S_ISREG(found.st_mode):
        return False
    others = stat.S_IRWXG | stat.S_IRWXO if found.st_uid == os.geteuid() else stat.S_IWGRP | stat.S_IWOTH
    return bool(found.st_mode & others)
