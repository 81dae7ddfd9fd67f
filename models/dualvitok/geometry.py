"""Image sizes: the code grids of an image, the anchor that it matches, and how it is cropped or padded to the anchor.

Sizes are (height, width) in pixels unless a name ends in `_wh`. No tensors here.
Source: ILLUME+ released image processors and codebook inference (arXiv 2504.01934, appendix).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]

VIT_CELL_PX = 28  # 2x2 patches of 14 pixels make one semantic code

# In the published order; the order breaks ties and numbers the resolutions.
PUBLISHED_ANCHORS: tuple[Size, ...] = (
    (512, 512),
    (384, 512),
    (512, 384),
    (384, 768),
    (768, 384),
    (384, 576),
    (576, 384),
    (320, 960),
    (960, 320),
    (256, 1024),
    (1024, 256),
)
PUBLISHED_MAX_CROP = 0.2

# Smaller than the floor rule for some anchors, so that the aspect stays exact.
_VIT_SIZES: dict[Size, Size] = {
    (256, 256): (252, 252),
    (512, 512): (504, 504),
    (512, 384): (448, 336),
    (384, 512): (336, 448),
    (768, 384): (728, 364),
    (384, 768): (364, 728),
    (384, 576): (336, 504),
    (576, 384): (504, 336),
    (960, 320): (924, 308),
    (320, 960): (308, 924),
    (1024, 256): (1008, 252),
    (256, 1024): (252, 1008),
}


def vit_size(height: int, width: int) -> Size:
    """Size of an image for the semantic branch: the published table, else whole cells, at least one per side."""
    floor = (max(1, height // VIT_CELL_PX) * VIT_CELL_PX, max(1, width // VIT_CELL_PX) * VIT_CELL_PX)
    return _VIT_SIZES.get((height, width), floor)


def semantic_grid(height: int, width: int) -> Size:
    """Rows and columns of semantic codes of an image."""
    vit_height, vit_width = vit_size(height, width)
    return vit_height // VIT_CELL_PX, vit_width // VIT_CELL_PX


def pixel_grid(height: int, width: int, factor: int = 16) -> Size:
    """Rows and columns of pixel codes of an image.

    Raises: ValueError if a side is not a positive multiple of `factor`.
    """
    if height < factor or width < factor or height % factor or width % factor:
        raise ValueError(
            f"image of {height}x{width} (HxW): sides must be positive multiples of {factor}; resize it first"
        )
    return height // factor, width // factor


def smart_resize(
    height: int, width: int, *, factor: int = 16, min_pixels: int = 32**2, max_pixels: int = 512**2
) -> Size:
    """Nearest size of multiples of `factor` with about the same aspect and an area within the limits.

    Sides round half to even, as published; the area limits win over rounding, a side never falls below `factor`.
    """
    new_height, new_width = factor * round(height / factor), factor * round(width / factor)
    if new_height * new_width > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        new_height, new_width = (factor * math.floor(side / scale / factor) for side in (height, width))
    elif new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_height, new_width = (factor * math.ceil(side * scale / factor) for side in (height, width))
    return max(new_height, factor), max(new_width, factor)


@dataclass(frozen=True, kw_only=True)
class AnchorMatch:
    """How an image of some size would become one anchor."""

    anchor: Size
    index: int  # position of the anchor in the list
    cover_wh: Size  # the size by which the crop share is computed
    crop_share: float  # share of the covering area that is cut off
    resize_wh: Size  # LANCZOS target; always covers the anchor
    crop_box: tuple[int, int, int, int]  # left, top, right, bottom in the resized image


def match_anchor(width: int, height: int, anchors: Sequence[Size] = PUBLISHED_ANCHORS) -> AnchorMatch:
    """The anchor whose aspect is nearest (difference of w/h; ties by squared distance of the sizes, then by order).

    `resize_wh` differs from the published code where that cuts a side one pixel short of the anchor and so draws a
    black line into the image (98x98 becomes 511x512 there); the decision itself is the same.
    """
    if width < 1 or height < 1 or not anchors:
        raise ValueError(f"image of {width}x{height} (WxH) against {len(anchors)} anchors: both must be positive")
    aspect = width / height
    index = min(
        range(len(anchors)),
        key=lambda i: (
            abs(anchors[i][1] / anchors[i][0] - aspect),
            (anchors[i][0] - height) ** 2 + (anchors[i][1] - width) ** 2,
        ),
    )
    anchor_height, anchor_width = anchors[index]
    cover_wh = _cover(width, height, anchors[index])
    resize_wh = _resize(width, height, anchors[index])
    left, top = (resize_wh[0] - anchor_width) // 2, (resize_wh[1] - anchor_height) // 2
    return AnchorMatch(
        anchor=anchors[index],
        index=index,
        cover_wh=cover_wh,
        crop_share=1.0 - anchor_width * anchor_height / (cover_wh[0] * cover_wh[1]),
        resize_wh=resize_wh,
        crop_box=(left, top, left + anchor_width, top + anchor_height),
    )


def _cover(width: int, height: int, anchor: Size) -> Size:
    """Last of the two aspect-keeping sizes that covers the anchor; whole pixels, cut off."""
    anchor_height, anchor_width = anchor
    by_width = (anchor_width, int(anchor_width / (width / height)))
    by_height = (int(anchor_height * (width / height)), anchor_height)
    covering = [size for size in (by_width, by_height) if size[0] >= anchor_width and size[1] >= anchor_height]
    return covering[-1] if covering else (anchor_width, anchor_height)


def _resize(width: int, height: int, anchor: Size) -> Size:
    anchor_height, anchor_width = anchor
    if height / anchor_height > width / anchor_width:
        return anchor_width, max(int(anchor_width / width * height), anchor_height)
    return max(int(anchor_height / height * width), anchor_width), anchor_height


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB; transparent parts become white."""
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def fit_to_anchor(image: Image.Image, anchor: Size) -> Image.Image:
    """RGB image of exactly the anchor's size: LANCZOS to cover it, then a centre crop."""
    match = match_anchor(image.width, image.height, (anchor,))
    return as_rgb(image).resize(match.resize_wh, Image.Resampling.LANCZOS).crop(match.crop_box)


def padded_box(width: int, height: int, anchor: Size) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of an image that is fitted whole and centred into an anchor."""
    anchor_height, anchor_width = anchor
    scale = min(anchor_width / width, anchor_height / height)
    inner_width = min(max(round(width * scale), 1), anchor_width)
    inner_height = min(max(round(height * scale), 1), anchor_height)
    left, top = (anchor_width - inner_width) // 2, (anchor_height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def pad_to_anchor(image: Image.Image, anchor: Size) -> Image.Image:
    """RGB image of the anchor's size with the whole image centred on white, as for editing at inference."""
    left, top, right, bottom = padded_box(image.width, image.height, anchor)
    canvas = Image.new("RGB", (anchor[1], anchor[0]), (255, 255, 255))
    canvas.paste(as_rgb(image).resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
    return canvas


def remove_padding(image: Image.Image, source_wh: Size, anchor: Size) -> Image.Image:
    """Undo `pad_to_anchor` on an image of the anchor's size or a multiple of it: crop, then resize to the source."""
    scale = image.width / anchor[1]
    left, top, right, bottom = (round(edge * scale) for edge in padded_box(source_wh[0], source_wh[1], anchor))
    return image.crop((left, top, right, bottom)).resize(source_wh, Image.Resampling.LANCZOS)
