"""Figures on the page: a drawing with its heading and caption, several side by side."""

from html import escape


def figure_html(svg: str, caption: str, heading: str = "") -> str:
    """One drawing; nothing where `svg` is empty."""
    above = f"<h3>{escape(heading)}</h3>" if heading else ""
    return f"<figure>{above}{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def figures_html(*figures: str) -> str:
    """Those that are not empty, side by side where there is room."""
    found = "".join(figures)
    return f'<div class="figures">{found}</div>' if found else ""


def capital(text: str) -> str:
    """`text` with a capital at its start."""
    return text[:1].upper() + text[1:]
