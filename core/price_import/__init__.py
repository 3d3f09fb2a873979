"""The import of price files: reads, checks and loads daily prices from files of many formats.

The steps in their order: `sources` opens files, `dialect` finds the format of each, `rows` and `bars` check
rows and prices with the functions of `parsing`, and `table` runs the checks that need several rows. `reading`
calls all of these; `daily_ticks` builds the ticks, and `loading` writes them.
"""

from core.installation import require_extra

require_extra("simulation")
