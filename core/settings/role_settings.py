"""The settings of `echo-markets roles`: an administrator's URL, and the passwords to set."""

from typing import Any

from pydantic import Field, SecretStr, model_validator

from core.settings.environment import EnvironmentSettings
from core.settings.settings import DATABASE_URL_FORM, DatabaseUrl, add_passwords


def _password() -> Any:
    return Field(description="any text", min_length=1)


class RoleSettings(EnvironmentSettings):
    """Who creates the roles, in which database, and with which passwords."""

    admin_url: DatabaseUrl = Field(description=DATABASE_URL_FORM)
    admin_password: SecretStr | None = Field(default=None, description="any text")
    owner_password: SecretStr = _password()
    app_password: SecretStr = _password()
    monitor_password: SecretStr = _password()
    replication_password: SecretStr | None = Field(default=None, description="any text", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _add_password(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Put ADMIN_PASSWORD into ADMIN_URL if the URL has no password."""
        return add_passwords(values, "admin")
