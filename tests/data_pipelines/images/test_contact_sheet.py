"""A contact sheet shows each image in its cell."""

from PIL import Image

from data_pipelines.images.contact_sheet import LABEL_WIDTH_PX, LINE_PX, MARGIN_PX, Cell, Row, contact_sheet

RED, GREEN = (255, 0, 0), (0, 255, 0)


def test_images_are_scaled_into_their_cells() -> None:
    wide, tiny = Image.new("RGB", (400, 200), RED), Image.new("L", (2, 2), 0)
    rows = [
        Row(label="first", cells=[Cell(image=wide, text="wide"), Cell(image=None, text="text only")]),
        Row(label="second", cells=[Cell(image=tiny)]),
    ]
    sheet = contact_sheet(rows, cell_px=40, text_lines=1)
    row_px = 40 + LINE_PX + MARGIN_PX
    assert sheet.size == (LABEL_WIDTH_PX + 2 * (40 + MARGIN_PX) + MARGIN_PX, 2 * row_px + MARGIN_PX)
    left, top = LABEL_WIDTH_PX, MARGIN_PX
    assert [sheet.getpixel((left + x, top + y)) for x, y in ((0, 0), (39, 19))] == [RED, RED]
    assert sheet.getpixel((left, top + 20)) == (255, 255, 255)  # the image keeps its shape
    assert sheet.getpixel((left + 39, top + row_px + 39)) == (0, 0, 0)  # enlarged to the cell


def test_enlarged_pixels_keep_their_colours() -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    sheet = contact_sheet([Row(label="", cells=[Cell(image=image)])], cell_px=40)
    cell = sheet.crop((LABEL_WIDTH_PX, MARGIN_PX, LABEL_WIDTH_PX + 40, MARGIN_PX + 20))
    assert {colour for _, colour in cell.getcolors() or []} == {RED, GREEN}


def test_a_sheet_without_rows_is_empty() -> None:
    assert contact_sheet([]).getcolors() == [(MARGIN_PX * contact_sheet([]).width, (255, 255, 255))]
