"""The exporter serves the metrics and the health of the stack over HTTP. It only reads the database."""

from pathlib import Path
from runpy import run_path

# check this before `core` is imported: another project's package `core` may be first in the path
run_path(str(Path(__file__).resolve().parents[1] / "core" / "shadowed.py"))["refuse_shadow"]()

from core.installation import require_extra  # noqa: E402  # see above

require_extra("exporter")
