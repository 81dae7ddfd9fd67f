"""Limits of decoding, and the size that images are stored in."""

from dataclasses import dataclass

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
# Read only where `formats` allows them: rare, and each one more decoder that hostile files reach.
OTHER_FORMATS = ("DDS", "ICNS", "ICO", "PCX", "PPM", "PSD", "QOI", "SGI", "TGA")
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What may reach a decoder: the fields of `CurationConfig` with the same names."""

    formats: tuple[str, ...] = IMAGE_FORMATS
    max_pixels: int = MAX_PIXELS
    max_file_bytes: int = MAX_FILE_BYTES


@dataclass(frozen=True, kw_only=True)
class StoredSize:
    """The largest size at which images are stored."""

    max_side: int  # pixels
    quality: int  # of the JPEGs that larger ones become, 1..95
