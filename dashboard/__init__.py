"""The dashboard: shows the game and the state of the stack in a browser, for the product team.

`pages/<page>/` holds the code of one page: `page.py` (Streamlit calls), `data.py` (calls of the service),
`tables.py` and `charts.py` (pure functions from records to tables and charts). Modules that several pages use
are beside `pages/`. `monitoring/` samples the stack's health; `server/` is the web server that runs the
pages. The dashboard contains no SQL and no Redis command.
"""

from pathlib import Path
from runpy import run_path

# must run before the first import of `core`: `refuse_shadow` stops the process if Python would import another
# project's package named `core`
run_path(str(Path(__file__).resolve().parents[1] / "core" / "shadowed.py"))["refuse_shadow"]()

from core.installation import require_extra  # noqa: E402  # see above

require_extra("dashboard")
