"""The settings of the command `echo-markets roles`."""

from typing import Any

from pydantic import Field, SecretStr, model_validator

from core.settings.environment import EnvironmentSettings
from core.settings.settings import DATABASE_URL_FORM, DatabaseUrl, add_passwords


def _password() -> Any:
    return Field(description="any text", min_length=1)


class RoleSettings(EnvironmentSettings):
    """The URL with which an administrator creates the roles, and the new passwords of the roles."""

    admin_url: DatabaseUrl = Field(description=DATABASE_URL_FORM)
    admin_password: SecretStr | None = Field(default=None, description="any text")
    owner_password: SecretStr = _password()
    app_password: SecretStr = _password()
    monitor_password: SecretStr = _password()
    replication_password: SecretStr | None = Field(default=None, description="any text", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _add_password(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add ADMIN_PASSWORD to ADMIN_URL if the URL has no password."""
        return add_passwords(values, "admin")
