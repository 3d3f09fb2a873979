"""The import of price files: reads, checks and loads daily prices in whatever form they are written.

The steps in their order: `sources` opens files, `dialect` finds out how one is written, `rows` parses its
rows and `bars` their prices, `table` checks what needs several rows, `reading` runs all of these, `loading`
writes the ticks.
"""

from core.installation import require_extra

require_extra("simulation")
