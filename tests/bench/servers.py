"""The servers of a benchmark, which are started for one run and deleted afterwards.

Both servers listen on the loopback address over TCP. They have their default options; PostgreSQL, for
example, has its default durability.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from core import Settings
from core.migration import Migrator
from core.testing import ENCRYPTION_KEYS, run_postgres, run_valkey


@contextmanager
def run_servers() -> Iterator[Settings]:
    """Yield the settings of a migrated, empty database and an empty Valkey."""
    Settings.model_config["env_file"] = None
    with (
        tempfile.TemporaryDirectory(prefix="echo-markets-bench-") as folder,
        run_postgres(Path(folder)) as postgres,
        run_valkey(Path(folder)) as valkey,
    ):
        settings = Settings(
            database_url=SecretStr(postgres.url()),
            redis_url=SecretStr(valkey.url),
            redis_password=SecretStr(valkey.password),
            encryption_keys=SecretStr(ENCRYPTION_KEYS),
            direct_url=None,
            metrics_dir=None,
        )
        Migrator(settings).up()
        yield settings
