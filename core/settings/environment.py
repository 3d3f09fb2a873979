"""Reads settings from the environment and from files, and builds the messages for wrong settings.

Owns the sources and their order, the messages, and the rule by which an unknown name counts as a misspelt
setting. Never shows a password: secrets are `SecretStr`, and passwords in a rejected value are replaced
before it is printed.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, cast

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.encryption import EncryptionKeysError
from core.errors import SettingsError
from core.settings.database_url import DatabaseUrlError
from core.settings.redis_url import RedisUrlError
from core.settings.secret_files import SecretFileSource, has_secret, list_secrets
from core.settings.texts import HIGHEST_PORT, TextError, check_characters

STACK_ENV_FILE = Path(".local/stack.env")

# The least similarity (0 to 1) of a misspelt name to a setting: one letter in ten is missing, wrong or in
# another place. DATABSE_URL is a misspelt name, REDIS_HOST is not.
MISSPELT_SIMILARITY = 0.9
# The messages of these errors contain no secret. The message of any other error is not shown.
_EXPLAINED = (RedisUrlError, DatabaseUrlError, EncryptionKeysError, TextError)
# A longer value is not shown in a message.
SHOWN_CHARACTERS = 500
# The least similarity (0 to 1) at which the error for an unknown name proposes a setting.
PROPOSED_SIMILARITY = 0.6


def milliseconds(default: int, lowest: int = 1, highest: int = 3_600_000, *, zero: str = "") -> Any:
    """Return a field for a duration in whole milliseconds. `zero` describes the meaning of 0."""
    return number(default, lowest, highest, unit="whole milliseconds", zero=zero)


def port(default: int) -> Any:
    """Return a field for a TCP port."""
    return number(default, 1, HIGHEST_PORT, unit="a port")


def number(default: int, lowest: int, highest: int, *, unit: str, zero: str = "") -> Any:
    """Return a field for a whole number from `lowest` to `highest`, with a description of these limits."""
    first = f"{lowest} ({zero})" if zero else str(lowest)
    return Field(default=default, ge=lowest, le=highest, description=f"{unit} from {first} to {highest}")


def redact(text: str) -> str:
    """Return `text` with `***` in place of each password, so that it can be printed or logged."""
    text = re.sub(r"://(?P<login>.*)@", _hide_password, text)
    text = re.sub(r"(?P<start>://(?:[^/?#\s]*@)?)(?P<hosts>[^/?#\s@]*)", _hide_wrong_ports, text)
    # hide any parameter whose name suggests a secret: it may be a misspelt `password`
    return re.sub(r"(?i)((?:pass(?!file)\w*|pwd|secret|token|[?&](?:auth|key))=)[^&\s]*", r"\1***", text)


def show_value(value: object) -> str:
    """Return the form in which a message shows a rejected value: short, and without passwords."""
    if not isinstance(value, str | int | float | Path):
        return f"a {type(value).__name__}"
    try:
        text = str(value)
    except ValueError:
        # Python does not print a number of more than 4,300 digits
        return f"a very large {type(value).__name__}"
    return repr(redact(text)) if len(text) <= SHOWN_CHARACTERS else f"a text of {len(text)} characters"


def _hide_wrong_ports(found: re.Match[str]) -> str:
    """Replace the text after the host and the colon by `***`, unless it is a port.

    If a URL has a user name and a password but no `@HOST`, the user name looks like the host, and the
    password like the port.
    """
    hosts = re.sub(r"((?:^|,)(?:\[[^],]*\]|[^:,[]*)):(?![0-9]{0,5}(?:,|$))[^,]*", r"\1:***", found["hosts"])
    return f"{found['start']}{hosts}"


def _hide_password(found: re.Match[str]) -> str:
    user, colon, _ = found["login"].partition(":")
    if re.search(r"[/?#@]", user):
        # hide the user name too: a '/', '?', '#' or '@' in it may in fact be a character of a password
        return "://***@"
    return f"://{user}:***@" if colon else found[0]


class EnvironmentSettings(BaseSettings):
    """Base class of settings: reads them from the environment, and reports each error as one line.

    Each field has a `description` of its allowed values, which the error shows.
    """

    model_config = SettingsConfigDict(
        env_file=(STACK_ENV_FILE, ".env"),
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        case_sensitive=False,
        hide_input_in_errors=True,
    )

    def __init__(self, **values: Any) -> None:
        """Read the settings from the environment and files; `values` take precedence.

        Raises `SettingsError` with one line for each wrong variable: its name, its value without passwords,
        and the allowed values. Also raises it for a misspelt name, and for a file that cannot be read.
        """
        try:
            lines = self._list_wrong_names(values)
            super().__init__(**values)
        except ValidationError as error:
            lines += [self._explain(item) for item in error.errors(include_url=False)]
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"a file of settings, {STACK_ENV_FILE} or .env, is not UTF-8 text: {error}; save it as UTF-8"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"the file of settings {error.filename} cannot be read: {error.strerror};"
                " run this as its owner, or from another folder"
            ) from None
        if lines:
            raise SettingsError("\n".join(lines))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence: arguments, environment, and each settings file.

        Environment and settings files may give a secret as the path of a file that contains it.
        """
        files = getattr(dotenv_settings, "env_file", None)
        listed = [files] if isinstance(files, str | Path) else list(files or ())
        return (
            init_settings,
            SecretFileSource(cast("EnvSettingsSource", env_settings)),
            # the last file in the list takes precedence
            *(
                SecretFileSource(DotEnvSettingsSource(settings_cls, env_file=file))
                for file in reversed(listed)
            ),
        )

    @field_validator("*", mode="before")
    @classmethod
    def _check_characters(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a text with characters that no setting may have.

        Also refuse a Decimal: pydantic would convert it to an int, which takes long if the exponent is huge.
        """
        is_secret = has_secret(cls.model_fields[str(info.field_name)].annotation)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str | Path):
            check_characters(str(text), is_secret=is_secret)
        elif isinstance(value, SecretStr | Decimal):
            raise TextError("it is neither a text nor a whole number")
        return value

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings from the environment; `overrides` take precedence. Raises `SettingsError`."""
        return cls(**overrides)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with the values of `update`, which are not validated.

        Raises `SettingsError` for a name that is not a setting.
        """
        lines = self._list_unknown(update or {})
        if lines:
            raise SettingsError("\n".join(lines))
        return super().model_copy(update=update, deep=deep)

    @classmethod
    def _list_unknown(cls, names: Iterable[str]) -> list[str]:
        """Return an error line for each name that is not a setting."""
        unknown = sorted(set(names) - set(cls.model_fields))
        closest = {
            name: _find_closest(name.lower(), cls.model_fields, similarity=PROPOSED_SIMILARITY)
            for name in unknown
        }
        return [
            f"there is no setting {name}; "
            + (f"the closest is {closest[name]}" if closest[name] else f"{cls.__name__} lists all")
            for name in unknown
        ]

    @classmethod
    def _list_wrong_names(cls, values: Mapping[str, Any]) -> list[str]:
        """Return an error line for each wrong name in `values`, the environment and the settings files.

        In `values`, each unknown name is wrong. In the environment and in the files, a name that is similar
        to a setting may belong to another program. So it is wrong only if the setting itself is not set.
        """
        names = {name.upper() for name in (*os.environ, *_list_names_in_files(cls._list_files(values)))}
        given = names.union(map(str.upper, values))
        given |= {name.removesuffix("_FILE") for name in given}
        lines = cls._list_unknown(name for name in values if not name.startswith("_"))
        for name, closest in _find_misspelt(sorted(names - _list_known()), _list_known(cls)).items():
            if closest not in given:
                lines.append(
                    f"{name} is set, and there is no such setting; the closest is {closest}: correct the"
                    f" name, or, if others read {name}, set {closest} too, to nothing for its default"
                )
        return lines

    @classmethod
    def _list_files(cls, values: Mapping[str, Any]) -> Sequence[Path]:
        files = values.get("_env_file", cls.model_config.get("env_file"))
        return [Path(file) for file in ([files] if isinstance(files, str | Path) else files or ())]

    @classmethod
    def _explain(cls, item: Any) -> str:
        field = str(item["loc"][0])
        name, allowed = field.upper(), cls.model_fields[field].description
        if item["type"] == "missing":
            place = f", or {name}_FILE to the path of a file with it" if field in list_secrets(cls) else ""
            return f"{name} is not set; set it to {allowed}{place}"
        value = item.get("input")
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        # in a URL without its scheme, `redact` cannot find the password: hide the whole value
        is_opaque = field.endswith("_url") and not (isinstance(value, str) and "://" in value)
        is_hidden = is_opaque or (field in list_secrets(cls) and not field.endswith("_url"))
        shown = "(hidden)" if is_hidden else show_value(value)
        cause = item.get("ctx", {}).get("error")
        reason = f": {cause}" if isinstance(cause, _EXPLAINED) and str(cause) else ""
        return f"{name} is {shown}, which is not allowed{reason}; set it to {allowed}"


def _list_names_in_files(files: Iterable[Path]) -> set[str]:
    return {name for file in files if file.is_file() for name in dotenv_values(file, interpolate=False)}


def _list_known(kind: type[EnvironmentSettings] = EnvironmentSettings) -> set[str]:
    """Return the names of all variables that a settings class and its subclasses read."""
    fields = {name.upper() for name in kind.model_fields}
    fields |= {f"{name.upper()}_FILE" for name in list_secrets(kind)}
    return fields.union(*map(_list_known, kind.__subclasses__()))


def _find_closest(name: str, known: Collection[str], *, similarity: float) -> str | None:
    """Return the known name that is most similar to `name`, or None if none is as similar as `similarity`."""
    return next(iter(get_close_matches(name, known, n=1, cutoff=similarity)), None)


def _find_misspelt(names: Iterable[str], known: Collection[str]) -> Mapping[str, str]:
    """Map each misspelt name in `names` to the known name that it resembles."""
    found: dict[str, str] = {}
    for name in names:
        closest = None if name in known else _find_closest(name, known, similarity=MISSPELT_SIMILARITY)
        if closest is not None and not _is_deliberate(name, closest):
            found[name] = closest
    return found


def _is_deliberate(name: str, known: str) -> bool:
    """Return whether a name is `known` with a prefix or suffix, such as DATABASE_URL_2 or OLD_REDIS_URL."""
    return re.fullmatch(rf"(\w+_)?{re.escape(known)}(_\w+|\d+)?", name) is not None
