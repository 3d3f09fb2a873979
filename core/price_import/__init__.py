"""The import of price files: reads, checks and loads daily prices in whatever form they are written.

The steps in their order: `sources` opens files, `dialect` finds out how one is written, `rows` and `bars`
check its rows and prices with the functions of `parsing`, and `table` checks several rows together. `reading`
runs all of these; `daily_ticks` builds the ticks, and `loading` writes them.
"""

from core.installation import require_extra

require_extra("simulation")
