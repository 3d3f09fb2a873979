"""Draws the topologies of docs/topologies.md with boxes and arrows, as SVG files in docs/images.

`tests.reference` writes the files. Boxes are placed on a grid; their columns and rows may be fractions.
"""

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

BOX_WIDTH, BOX_HEIGHT = 132, 44
COLUMN, ROW = 230, 84
MARGIN = 12
STYLE = (
    "text{font:13px sans-serif;text-anchor:middle;fill:#1f2933}"
    ".label{font-size:11px;fill:#52606d;paint-order:stroke;stroke:#fff;stroke-width:6px}"
    "rect.box{fill:#eef4fb;stroke:#3e6fa8}rect.server{fill:#fdf3e1;stroke:#b7791f}"
    "rect.proxy{fill:#e9f7ef;stroke:#2f855a}"
    "line{stroke:#52606d;stroke-width:1.3;marker-end:url(#tip)}line.dashed{stroke-dasharray:5 4}"
)
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#52606d"/></marker>'
)


class Box(NamedTuple):
    """A program, a server or a proxy, and its column and row on the grid."""

    name: str
    column: float
    row: float
    kind: str = "box"

    @property
    def middle(self) -> tuple[float, float]:
        """The middle of the box in pixels."""
        return (
            MARGIN + self.column * COLUMN + BOX_WIDTH / 2,
            MARGIN + self.row * ROW + BOX_HEIGHT / 2,
        )


class Arrow(NamedTuple):
    """A connection: the box that opens it, the box that accepts it, and its purpose."""

    start: str
    end: str
    label: str = ""
    is_dashed: bool = False


class Picture(NamedTuple):
    """A topology, and its alternative text for screen readers."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def _server(name: str, column: float, row: float) -> Box:
    return Box(name, column, row, "server")


def _proxy(name: str, column: float, row: float) -> Box:
    return Box(name, column, row, "proxy")


PICTURES = {
    "one-machine": Picture(
        "Dashboard, simulator and exporter use one PostgreSQL and one Redis",
        (
            Box("Dashboard", 0, 0),
            Box("Simulator", 0, 1),
            Box("Exporter", 0, 2),
            _server("PostgreSQL", 1.2, 0.4),
            _server("Redis", 1.2, 1.6),
        ),
        (
            Arrow("Dashboard", "PostgreSQL"),
            Arrow("Dashboard", "Redis"),
            Arrow("Simulator", "PostgreSQL"),
            Arrow("Simulator", "Redis"),
            Arrow("Exporter", "PostgreSQL"),
            Arrow("Exporter", "Redis"),
        ),
    ),
    "replica": Picture(
        "Programs write to the primary and read from a replica that streams from it",
        (
            Box("Programs", 0, 1.1),
            _server("Primary", 1.2, 0),
            _server("Replica", 1.2, 1.1),
            _server("Redis", 1.2, 2.2),
        ),
        (
            Arrow("Programs", "Primary", "writes"),
            Arrow("Programs", "Replica", "reads"),
            Arrow("Programs", "Redis", "cache, positions"),
            Arrow("Replica", "Primary", "log", is_dashed=True),
        ),
    ),
    "pooler": Picture(
        "Many programs share a few connections of PgBouncer to PostgreSQL, migrations go past it",
        (
            Box("Program", 0, 0),
            Box("Program ", 0, 0.7),
            Box("Program  ", 0, 1.4),
            Box("Migrations", 0, 2.3),
            _proxy("PgBouncer", 1.2, 0.7),
            _server("PostgreSQL", 2.4, 0.7),
        ),
        (
            Arrow("Program", "PgBouncer", "10 each"),
            Arrow("Program ", "PgBouncer", "10 each"),
            Arrow("Program  ", "PgBouncer", "10 each"),
            Arrow("PgBouncer", "PostgreSQL", "40 together"),
            Arrow("Migrations", "PostgreSQL", "DIRECT_URL"),
        ),
    ),
    "scale": Picture(
        "HAProxy spreads visitors over dashboards, which share PostgreSQL and Redis",
        (
            Box("Visitors", 0, 0.7),
            _proxy("HAProxy", 1, 0.7),
            Box("Dashboard 1", 2, 0),
            Box("Dashboard 2", 2, 1.4),
            _server("PostgreSQL", 3, 0),
            _server("Redis", 3, 1.4),
        ),
        (
            Arrow("Visitors", "HAProxy"),
            Arrow("HAProxy", "Dashboard 1", "cookie"),
            Arrow("HAProxy", "Dashboard 2", "cookie"),
            Arrow("Dashboard 1", "PostgreSQL"),
            Arrow("Dashboard 1", "Redis"),
            Arrow("Dashboard 2", "PostgreSQL"),
            Arrow("Dashboard 2", "Redis"),
        ),
    ),
    "sentinel": Picture(
        "Programs ask three sentinels which Redis is the primary; the sentinels promote the other one",
        (
            Box("Programs", 0, 0.7),
            _proxy("3 sentinels", 1.3, 0),
            _server("Redis, primary", 1.3, 1.4),
            _server("Redis, replica", 2.6, 0.7),
        ),
        (
            Arrow("Programs", "3 sentinels", "who is the primary?"),
            Arrow("Programs", "Redis, primary", "cache"),
            Arrow("3 sentinels", "Redis, primary", "watch"),
            Arrow("3 sentinels", "Redis, replica", "watch, promote"),
            Arrow("Redis, replica", "Redis, primary", "copies", is_dashed=True),
        ),
    ),
    "failover": Picture(
        "Programs name both PostgreSQL servers and write to the one that accepts writes",
        (
            Box("Programs", 0, 0.7),
            _server("Primary", 1.3, 0),
            _server("Standby", 1.3, 1.4),
        ),
        (
            Arrow("Programs", "Primary", "DATABASE_URL, first host"),
            Arrow("Programs", "Standby", "once promoted", is_dashed=True),
            Arrow("Standby", "Primary", "log, synchronous", is_dashed=True),
        ),
    ),
}


def draw_pictures() -> dict[str, str]:
    """Return the SVG text of each file by its path."""
    return {f"docs/images/topology-{name}.svg": draw(picture) for name, picture in PICTURES.items()}


def draw(picture: Picture) -> str:
    """Return a picture as SVG, with a white background, so that it can be read on a dark page too."""
    right, bottom = (max(values) for values in zip(*(box.middle for box in picture.boxes), strict=True))
    width, height = round(right + BOX_WIDTH / 2 + MARGIN), round(bottom + BOX_HEIGHT / 2 + MARGIN)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img">'
    )
    parts = [
        head,
        f"<title>{escape(picture.title)}</title>",
        f"<style>{STYLE}</style><defs>{TIP}</defs>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_draw_arrows(picture),
        *map(_draw_box, picture.boxes),
        "</svg>",
    ]
    return "\n".join([*parts, ""])


def _draw_box(box: Box) -> str:
    x, y = box.middle
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    frame = f'x="{left:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"'
    text = f'<text x="{x:g}" y="{y + 4.5:g}">{escape(box.name.strip())}</text>'
    return f'<rect class="{box.kind}" {frame} rx="6"/>{text}'


def _draw_arrows(picture: Picture) -> Iterator[str]:
    """Yield the lines, then the labels over them."""
    boxes = {box.name: box for box in picture.boxes}
    ends = [(arrow, _connect(boxes[arrow.start], boxes[arrow.end])) for arrow in picture.arrows]
    for arrow, (x1, y1, x2, y2) in ends:
        dashed = ' class="dashed"' if arrow.is_dashed else ""
        yield f'<line{dashed} x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'
    for arrow, (x1, y1, x2, y2) in ends:
        if arrow.label:
            x, y = (x1 + x2) / 2, (y1 + y2) / 2 + 4
            yield f'<text class="label" x="{x:g}" y="{y:g}">{escape(arrow.label)}</text>'


def _connect(start: Box, end: Box) -> tuple[float, float, float, float]:
    """Return a line between the sides of two boxes that face each other."""
    (x1, y1), (x2, y2) = start.middle, end.middle
    if start.column == end.column:
        half = BOX_HEIGHT / 2 if y2 > y1 else -BOX_HEIGHT / 2
        return x1, y1 + half, x2, y2 - half
    half = BOX_WIDTH / 2 if x2 > x1 else -BOX_WIDTH / 2
    return x1 + half, y1, x2 - half, y2
