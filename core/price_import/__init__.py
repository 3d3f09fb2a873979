"""Reads daily prices from files of many formats, checks them, and loads them into the database.

- `options` parses the options of the command line.
- `reading` reads files with the help of the following modules, and describes how they were interpreted.
- `sources` opens files, folders and archives, detects encodings, and splits text into columns.
- `format_detection` finds the separator, the header, the columns, the date format and the decimal mark.
- `vocabulary` has the known names of columns and currencies.
- `numbers_and_dates` parses texts with decimal points or commas, and dates in all known formats.
- `rows` and `bars` check rows and prices.
- `table` combines rows of one day, and makes the checks that need several rows.
- `splits` adjusts prices for stock splits.
- `loading` compares the new days with the stored days, and writes the ticks that `daily_ticks` builds.
"""

from core.installation import require_extra

require_extra("simulation")
