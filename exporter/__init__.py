"""The exporter: metrics and health of the stack over HTTP; reads, and never writes to, the database."""

from pathlib import Path
from runpy import run_path

# before anything else imports `core`, which may be another project's
run_path(str(Path(__file__).resolve().parents[1] / "core" / "shadowed.py"))["refuse_shadow"]()

from core.installation import require_extra  # noqa: E402  # see above

require_extra("exporter")
