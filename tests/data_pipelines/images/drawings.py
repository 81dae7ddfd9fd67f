"""Images of writing of several kinds, and the ways in which copies of them come about."""

import io
from collections.abc import Callable
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WORDS = ("river", "stone", "garden", "window", "paper", "cloud", "bridge", "market", "silver", "engine")
Drawing = Callable[[Random], Image.Image]


def text(draw: ImageDraw.ImageDraw, place: tuple[int, int], words: str, grey: int, size: int) -> None:
    draw.text(place, words, fill=grey, font=ImageFont.load_default(size))


def sheet(width: int, height: int, grey: int = 255) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (width, height), grey)
    return image, ImageDraw.Draw(image)


def equation(random: Random) -> Image.Image:
    image, draw = sheet(600, 120)
    numbers = random.randint(10, 99), random.randint(10, 99), random.randint(100, 999)
    text(draw, (20, 30), "{}x + {}y = {}".format(*numbers), 0, 40)
    return image


def form(random: Random) -> Image.Image:
    image, draw = sheet(600, 800)
    for row in range(9):
        draw.rectangle((40, 40 + row * 80, 560, 90 + row * 80), outline=0, width=2)
        text(draw, (50, 44 + row * 80), f"Field {row}:", 0, 14)
        text(draw, (150, 56 + row * 80), " ".join(random.choice(WORDS) for _ in range(4)), 0, 20)
    return image


def certificate(random: Random) -> Image.Image:
    image, draw = sheet(640, 480, 230)
    draw.rectangle((20, 20, 620, 460), outline=60, width=6)
    draw.ellipse((480, 320, 600, 440), fill=120)
    text(draw, (120, 60), "CERTIFICATE", 40, 56)
    text(draw, (140, 220), f"{random.choice(WORDS)} {random.choice(WORDS)} {random.randint(10, 99)}", 0, 36)
    return image


def slide(random: Random) -> Image.Image:
    image, draw = sheet(800, 450, 250)
    draw.rectangle((0, 0, 800, 80), fill=40)
    text(draw, (30, 16), f"Results {random.choice(WORDS)}", 255, 40)
    for row in range(5):
        text(draw, (60, 110 + row * 60), "- " + " ".join(random.choice(WORDS) for _ in range(5)), 20, 24)
    return image


def chart(random: Random) -> Image.Image:
    image, draw = sheet(640, 480)
    draw.line((60, 420, 600, 420, 60, 420, 60, 40), fill=0, width=3)
    for bar in range(8):
        left, height = 80 + bar * 64, random.randint(30, 340)
        draw.rectangle((left, 420 - height, left + 40, 420), fill=90)
        text(draw, (left + 5, 430), str(random.randint(10, 99)), 0, 18)
    return image


DRAWINGS: dict[str, Drawing] = {drawing.__name__: drawing for drawing in (equation, form, certificate, slide, chart)}


def coded(image: Image.Image, form: str = "JPEG", **options: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("L")


def resized(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    across, down = round(image.width * share), round(image.height * share)
    return image.crop((across, down, image.width - across // 2, image.height - down // 2))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 90": lambda image: coded(image, quality=90),
    "JPEG of quality 30": lambda image: coded(image, quality=30),
    "half the size": lambda image: resized(image, 0.5),
    "larger, then JPEG": lambda image: coded(resized(image, 1.5), quality=75),
    "2% cropped": lambda image: cropped(image, 0.02),
    "3% cropped, then its old size": lambda image: cropped(image, 0.03).resize(image.size, Image.Resampling.BICUBIC),
    "brighter": lambda image: image.point(lambda value: min(255, int(value * 1.1 + 8))),
}
