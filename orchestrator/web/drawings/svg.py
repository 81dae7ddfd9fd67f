"""SVG elements as text that templates insert unchanged, and text cut to a width.

Rule: every attribute and text passes through `element`, which escapes it; nothing sets a style, as the pages' policy
allows none.
"""

from collections.abc import Mapping

from markupsafe import Markup, escape

Attribute = str | int | float | None
Attributes = Mapping[str, Attribute]

_NARROW, _WIDE = frozenset("ijlftrI.,:;'|!()[] -/1"), frozenset("mwMW@%—…")
_ELLIPSIS = "…"


def element(tag: str, attributes: Attributes | None = None, *children: str) -> Markup:
    """An element. A child that is no `Markup` is text and escaped; an attribute that is None is left out."""
    pairs = (f' {name}="{escape(_text(value))}"' for name, value in (attributes or {}).items() if value is not None)
    head = f"<{tag}{''.join(pairs)}"
    return Markup(f"{head}/>") if not children else Markup(f"{head}>{''.join(map(escape, children))}</{tag}>")


def title(text: str) -> Markup:
    """The name of the element around it: read aloud, and shown on hover."""
    return element("title", {}, text or " ")


def group(*children: str, **attributes: Attribute) -> Markup:
    """A `g` element; a trailing `_` of an attribute's name is dropped, other `_` become `-`."""
    return element("g", {_attribute(name): value for name, value in attributes.items()}, Markup(""), *children)


def link(href: str, *children: str, **attributes: Attribute) -> Markup:
    """Children inside a link, or a group where `href` is empty."""
    named = {_attribute(name): value for name, value in attributes.items()}
    return element("a", {"href": href, **named}, *children) if href else element("g", named, *children)


def percent(part: float, whole: float) -> str:
    """`part` of `whole` as a share of the width of the picture, within 0 and 100."""
    return f"{min(100.0, max(0.0, 100.0 * part / whole)) if whole > 0 else 0.0:.3f}%"


def text_width(text: str, size: float) -> float:
    """An upper estimate of a text's width in the common sans-serif fonts; `size` and result in px."""
    return size * sum(_em(letter) for letter in text)


def fit_text(text: str, width: float, size: float) -> str:
    """`text`, or as much of its start as fits into `width` px with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + _ELLIPSIS, size) > width:
        text = text[:-1]
    return text.rstrip() + _ELLIPSIS if text else ""


def _em(letter: str) -> float:
    if letter in _NARROW:
        return 0.36
    if letter in _WIDE:
        return 0.96
    if ord(letter) > 0x2E7F:  # ideographs
        return 1.0
    return 0.72 if letter.isupper() else 0.56


def _text(value: Attribute) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _attribute(name: str) -> str:
    return name.removesuffix("_").replace("_", "-")
