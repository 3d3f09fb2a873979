"""The medals of ranks 1 to 3, drawn as images.

Owns their look. Images, because an emoji shows as an empty box where no emoji font is
installed.
"""

from urllib.parse import quote

_COLOURS = {
    1: ("#f2b93b", "#a9740a", "gold"),
    2: ("#c3cad6", "#6b7485", "silver"),
    3: ("#d99a6c", "#8c4f24", "bronze"),
}


def draw_medal(rank: int) -> str:
    """Return the medal of rank 1, 2 or 3 as a data address of an SVG image."""
    fill, edge, name = _COLOURS[rank]
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64' viewBox='0 0 32 32'>"
        f"<title>{name} medal</title>"
        "<path d='M9 2h6l3 9-5 3z' fill='#6d70f2'/><path d='M23 2h-6l-3 9 5 3z' fill='#4f46e5'/>"
        f"<circle cx='16' cy='20' r='10' fill='{fill}' stroke='{edge}' stroke-width='1.5'/>"
        f"<text x='16' y='24.6' text-anchor='middle' font-family='sans-serif' font-size='13' "
        f"font-weight='700' fill='{edge}'>{rank}</text></svg>"
    )
    return f"data:image/svg+xml,{quote(svg)}"


MEDALS = {rank: draw_medal(rank) for rank in _COLOURS}
