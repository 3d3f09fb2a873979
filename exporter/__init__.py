"""The exporter: metrics and health of the stack over HTTP; only reads the database."""

from pathlib import Path
from runpy import run_path

# run before `core` is imported: a package `core` of another project may be first in the path
run_path(str(Path(__file__).resolve().parents[1] / "core" / "shadowed.py"))["refuse_shadow"]()

from core.installation import require_extra  # noqa: E402  # see above

require_extra("exporter")
