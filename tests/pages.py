"""What a browser makes of a page, and texts that try to become more than text."""

import re
from html.parser import HTMLParser

from hypothesis import strategies as st

ATTACKS = (
    "</title><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" style="background:url(http://host/x)" "',
    "<!-- <b>",
    "<a href=javascript:alert(1)>x</a>",
    "&lt;script&gt;&amp;#60;",
    "{{ 7 * 7 }}{% for x in [1] %}{{ x }}{% endfor %}{# no #}",
    "../../x\u202egpj.exe\u200b\x00\x1b[2J\r\n",
)
PAYLOADS = st.one_of(st.sampled_from(ATTACKS), st.text(min_size=1, max_size=60))
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "nav", "div", "h1", "h2", "h3", "p", "b", "i", "a", "br"),
    *("span", "table", "caption", "tr", "th", "td", "details", "summary", "figure", "figcaption", "img", "code"),
    *("svg", "g", "rect", "header", "main", "section", "thead", "tbody", "ul", "li", "wbr"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "style", "href", "src", "alt", "colspan", "open"),
    *(
        "scope",
        "aria-hidden",
        "aria-labelledby",
        "id",
        "role",
        "aria-label",
        "viewbox",
        "preserveaspectratio",
        "x",
        "y",
        "width",
        "height",
    ),
}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Page(HTMLParser):
    """The elements, attributes and words of a page or a part of one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self._words: list[str] = []
        self.feed(text)
        self.close()

    @property
    def words(self) -> str:
        return "".join(self._words)

    @property
    def links(self) -> list[str]:
        return [value for name, value in self.attributes if name in ("src", "href", "srcset", "action")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self._words.append(data)


def assert_only_text_and_images(text: str) -> Page:
    """Nothing in a page, or in a part of one, runs, loads, hides or reverses anything."""
    page = Page(text)
    assert set(page.tags) <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    assert page.comments == []
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert all(re.fullmatch(r"width:[0-9.]+%", value) for name, value in page.attributes if name == "style")
    assert all(character.isprintable() for line in text.split("\n") for character in line)
    return page


def assert_is_whole_page(text: str) -> Page:
    page = assert_only_text_and_images(text)
    assert text.startswith("<!DOCTYPE html>")
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert ("content", POLICY) in page.attributes
    return page
