"""The dashboard: shows the game and the state of the stack in a browser, for the product team.

`pages/<page>/` holds everything of one page: `page.py` (Streamlit calls), `data.py` (calls of the service),
`tables.py` and `charts.py` (pure functions from records to tables and charts). Modules that several pages use
are beside `pages/`; `monitoring/` samples the stack's health, `server/` is the web server around the pages.
Presentation only: no SQL and no Redis command.
"""

from pathlib import Path
from runpy import run_path

# before any other import of `core`, which may be another project's package
run_path(str(Path(__file__).resolve().parents[1] / "core" / "shadowed.py"))["refuse_shadow"]()

from core.installation import require_extra  # noqa: E402  # see above

require_extra("dashboard")
