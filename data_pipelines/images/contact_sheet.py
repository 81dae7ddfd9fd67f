"""Draws images in labelled rows on one sheet, for people to look at."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

MARGIN_PX = 8
LINE_PX = 13
TEXT_COLOUR = (32, 32, 32)
LABEL_WIDTH_PX = 150


@dataclass(frozen=True, kw_only=True)
class Cell:
    image: Image.Image | None  # None: text only
    text: str = ""  # below the image


@dataclass(frozen=True, kw_only=True)
class Row:
    label: str
    cells: Sequence[Cell]


def contact_sheet(rows: Sequence[Row], *, cell_px: int = 128, text_lines: int = 4) -> Image.Image:
    """A sheet of rows of images, each scaled to fit a square of `cell_px`; enlarged ones keep sharp pixels."""
    columns = max((len(row.cells) for row in rows), default=1)
    row_px = cell_px + text_lines * LINE_PX + MARGIN_PX
    width = LABEL_WIDTH_PX + columns * (cell_px + MARGIN_PX) + MARGIN_PX
    sheet = Image.new("RGB", (width, len(rows) * row_px + MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for index, row in enumerate(rows):
        top = MARGIN_PX + index * row_px
        label = "\n".join(textwrap.wrap(row.label, 22))
        draw.multiline_text((MARGIN_PX, top), label, fill=TEXT_COLOUR, font=font)
        for column, cell in enumerate(row.cells):
            left = LABEL_WIDTH_PX + column * (cell_px + MARGIN_PX)
            if cell.image is not None:
                sheet.paste(_fit(cell.image, cell_px), (left, top))
            lines = textwrap.wrap(cell.text, max(8, cell_px // 6))[:text_lines]
            draw.multiline_text((left, top + cell_px + 1), "\n".join(lines), fill=TEXT_COLOUR, font=font, spacing=1)
    return sheet


def _fit(image: Image.Image, side_px: int) -> Image.Image:
    scale = side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    enlarge = scale >= 1
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)
