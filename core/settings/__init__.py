"""Reads the settings of a process from the environment; `Settings` and its base class list them."""

from core.settings.environment import STACK_ENV_FILE, EnvironmentSettings, number, port, redact
from core.settings.role_settings import RoleSettings
from core.settings.settings import Settings
from core.settings.shared_settings import SharedSettings, build_listener_url

__all__ = [
    "EnvironmentSettings",
    "RoleSettings",
    "STACK_ENV_FILE",
    "Settings",
    "SharedSettings",
    "build_listener_url",
    "number",
    "port",
    "redact",
]
