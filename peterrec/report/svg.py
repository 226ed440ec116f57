"""Inline SVG from matplotlib: text stays text, colours become CSS variables, ids are unique on the page."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from peterrec.report.reading import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 344  # points; near the width of a phone, so that letters keep their size there
FONT = 11
# Drawn with these, replaced by var(--name) afterwards: Okabe-Ito hues, at least 4.5 : 1 on white.
COLOURS = {
    "ink": "#1b1f24",
    "muted": "#57606b",
    "line": "#d0d7de",
    "card": "#fffffe",
    "model": "#0072b2",
    "baseline": "#b34e00",
    "control": "#00785a",
    "ceiling": "#9c3f82",
}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "peterrec",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
}


@contextmanager
def _drawing() -> Iterator[None]:
    # The user's matplotlibrc must not change a report, a report must not change the user's plots, and a
    # letter that the font lacks is drawn by the browser anyway.
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib
        from matplotlib import style

        with warnings.catch_warnings(), style.context("default"):
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            for name, value in SETTINGS.items():
                matplotlib.rcParams[name] = value
            yield
    finally:
        logger.setLevel(level)


def inline_svg(draw: Callable[["Figure"], None], *, height: float, prefix: str, label: str) -> str:
    """A figure of WIDTH × `height` points; its ids start with `prefix`; `label` is what is read aloud."""
    import io

    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / 72, height / 72))
        draw(figure)
        page = io.StringIO()
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    svg = page.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    names = {value: f"var(--{name})" for name, value in COLOURS.items()}

    def tag(match: re.Match[str]) -> str:
        text = re.sub(r'\bid="', f'id="{prefix}-', match[0])
        text = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', text)
        text = text.replace("url(#", f"url(#{prefix}-")
        text = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", text)
        return re.sub(r"#[0-9a-f]{6}\b", lambda colour: names.get(colour[0], colour[0]), text)

    svg = re.sub(r"<[^>]+>", tag, svg)  # tags only: what users named stands between them, escaped
    opening = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(plain(label))}">'
    return re.sub(r"\s*\n\s*", " ", re.sub(r"^<svg[^>]*>", lambda _: opening, svg, count=1)).strip()


def shorten(text: str, width: int) -> str:
    """At most `width` letters; those of wide scripts count twice."""
    from unicodedata import east_asian_width

    used, kept = 0, ""
    for letter in text:
        used += 2 if east_asian_width(letter) in "WF" else 1
        if used > width:
            return kept[:-1] + "…"
        kept += letter
    return kept
