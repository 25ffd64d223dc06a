"""Pictures as PNG, small: indexed where they have few colours, and made smaller until they fit."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

MOST_WIDE = 320
"""Frames are shown at most this wide, in pixels."""
SMALLEST = 24
"""Pixels that a side keeps, whatever the page grows to."""


def png(pixels: np.ndarray) -> bytes:
    """[H, W] or [H, W, 3] uint8 as a PNG file.

    With at most 256 colours it holds their numbers and a palette, else the pixels' differences from those above.
    """
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    height, width, _ = pixels.shape
    packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, index = np.unique(packed, return_inverse=True)
    if len(colours) <= 256:
        rows, kind = index.reshape(height, width).astype(np.uint8), 3
        palette = [_chunk(b"PLTE", b"".join(int(c).to_bytes(3, "big") for c in colours))]
        filtered = np.pad(rows, ((0, 0), (1, 0)))  # filter 0: as they are
    else:
        above = np.pad(pixels, ((1, 0), (0, 0), (0, 0)))[:-1]
        rows, kind, palette = (pixels - above).reshape(height, -1), 2, []
        filtered = np.pad(rows, ((0, 0), (1, 0)), constant_values=2)  # filter 2: less what stands above
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = zlib.compress(filtered.astype(np.uint8).tobytes(), 9)
    chunks = [_chunk(b"IHDR", header), *palette, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pictures(frames: Sequence[np.ndarray], most_bytes: int) -> tuple[list[str], list[int]]:
    """Frames as data URIs, each different one once, and for each frame its number among them.

    They are as large as they come, but at most `MOST_WIDE`, and smaller where all together would exceed `most_bytes`.
    """
    factor = max(1, -(-frames[0].shape[1] // MOST_WIDE))
    some = frames[:: max(1, len(frames) // 12)]
    while not _fits(sum(len(png(shrunk(frame, factor))) for frame in some) * len(frames) / len(some), most_bytes):
        if min(frames[0].shape[:2]) // (factor + 1) < SMALLEST:
            break
        factor += 1
    known: dict[bytes, int] = {}
    numbers = [known.setdefault(png(shrunk(frame, factor)), len(known)) for frame in frames]
    return ["data:image/png;base64," + base64.b64encode(data).decode() for data in known], numbers


def _fits(num_bytes: float, most_bytes: int) -> bool:
    """Whether they do in base64, with a little room: a dozen frames stand for all."""
    return 1.1 * 4 / 3 * num_bytes <= most_bytes


def shrunk(frame: np.ndarray, factor: int) -> np.ndarray:
    """The means of squares of `factor` × `factor` pixels; what is left over at the right and below is cut off. In steps
    of 8, so that a shaded edge makes no colour of its own in every frame."""
    if factor == 1:
        return frame
    height, width = (size // factor * factor for size in frame.shape[:2])
    # Sums of pictures, each of one pixel in every square: several times as quick as a mean over two axes.
    parts = (frame[y:height:factor, x:width:factor].astype(float) for y in range(factor) for x in range(factor))
    mean = sum(parts, np.float64(0)) / factor**2
    return np.clip(np.round(mean / 8) * 8, 0, 255).astype(np.uint8)


def grey_or_colour(image: np.ndarray) -> np.ndarray:
    """An observed image [H, W, C] or [C, H, W] as it can be drawn: three channels are colours, of others the last."""
    if image.ndim == 2:
        return image
    if image.shape[0] < image.shape[-1]:
        image = np.moveaxis(image, 0, -1)
    return image if image.shape[-1] == 3 else image[..., -1]
