"""The product team's view of the game: leaderboards and portfolios in a browser.

Every page is data function -> pure frame or chart builder -> Streamlit call.
Owns presentation only: it calls the service and never holds SQL or a Redis command.
"""

from pathlib import Path
from runpy import run_path

# before anything else imports `core`, which may be another project's
run_path(str(Path(__file__).resolve().parents[1] / "core" / "shadowed.py"))["refuse_shadow"]()

from core.extras import require_extra  # noqa: E402  # see above

require_extra("dashboard")
