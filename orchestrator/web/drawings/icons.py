"""The icons: strokes on a grid of 16 px, in the colour of the text around them."""

from markupsafe import Markup

from orchestrator.web.drawings.svg import element

_CIRCLE = "M8 1.75a6.25 6.25 0 1 1 0 12.5a6.25 6.25 0 1 1 0-12.5z"

ICONS = {
    "made": f"{_CIRCLE}M5.2 8.2l2 2 3.7-4.2",
    "reused": "M13.9 8a5.9 5.9 0 0 1-10.6 3.6M2.1 8a5.9 5.9 0 0 1 10.6-3.6M12.9 1.9v2.7h-2.7M3.1 14.1v-2.7h2.7",
    "recovered": f"{_CIRCLE}M5 8h2l1.2-2.6L9.6 10.4 10.4 8h.8",
    "running": "M8 1.75a6.25 6.25 0 1 1-6.25 6.25M6.4 5.6v4.8L10.4 8z",
    "waiting": f"{_CIRCLE}M8 4.6V8l2.3 1.6",
    "idle": "M4.2 3.1l.1-.1M8 1.75h.1M11.8 3.1l.1.1M14.2 8v.1M12 12.6l-.1.1M8 14.25h-.1M4 12.6l.1.1M1.75 8v-.1",
    "cancelled": f"{_CIRCLE}M3.7 12.3l8.6-8.6",
    "failed": "M5.4 1.75h5.2l3.65 3.65v5.2l-3.65 3.65H5.4L1.75 10.6V5.4zM5.9 5.9l4.2 4.2M10.1 5.9l-4.2 4.2",
    "lost": "M8.9 1.6L3.3 9h4.2l-.6 5.4L12.6 7H8.4z",
    "warned": "M8 1.9l6.4 11.4H1.6zM8 6.2v3.4M8 11.5v.1",
    "runs": "M2 3.5h12M2 8h8M2 12.5h10",
    "datasets": "M2.5 4c0-1.2 2.5-2.2 5.5-2.2s5.5 1 5.5 2.2-2.5 2.2-5.5 2.2S2.5 5.2 2.5 4z"
    "M2.5 4v8c0 1.2 2.5 2.2 5.5 2.2s5.5-1 5.5-2.2V4M2.5 8c0 1.2 2.5 2.2 5.5 2.2s5.5-1 5.5-2.2",
    "cluster": "M2 2.5h12v4H2zM2 9.5h12v4H2zM4.5 4.5h.1M4.5 11.5h.1",
    "events": "M8 1.75v3M8 11.25v3M4.75 8a3.25 3.25 0 1 1 6.5 0a3.25 3.25 0 1 1-6.5 0z",
    "search": "M7 2a5 5 0 1 1 0 10a5 5 0 1 1 0-10zM10.7 10.7l3.5 3.5",
    "theme": f"{_CIRCLE}M8 1.75v12.5M8 4.5l5 1M8 8h6M8 11.5l5-1",
    "download": "M8 2v8M4.8 7l3.2 3.2L11.2 7M2.5 13.5h11",
    "copy": "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
    "chevron": "M6 3.5l4.5 4.5L6 12.5",
    "help": f"{_CIRCLE}M6.2 6.3a1.8 1.8 0 1 1 2.6 1.6c-.6.3-.8.6-.8 1.2M8 11.3v.1",
    "checkpoint": "M4 14V2.5h8L10 5.5l2 3H4",
    "person": "M8 2a2.8 2.8 0 1 1 0 5.6A2.8 2.8 0 1 1 8 2zM2.5 14c.5-3 2.6-4.3 5.5-4.3s5 1.3 5.5 4.3",
}


def icon(name: str, *, label: str = "") -> Markup:
    """An icon of 16 px; with a label it is read aloud, without one it is decoration."""
    spoken = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return element(
        "svg",
        {"class": f"icon icon-{name}", "viewBox": "0 0 16 16", "width": 16, "height": 16, **spoken},
        glyph(name),
    )


def glyph(name: str) -> Markup:
    """The strokes of an icon, to be placed inside another picture. Raises: KeyError: no such icon."""
    return element("path", {"class": "glyph", "d": ICONS[name]})
