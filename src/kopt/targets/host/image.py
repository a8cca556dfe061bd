"""Decoding of images, with Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from kopt.errors import InputError, MissingDependencyError
from kopt.targets.host.registry import HostContext, host

MAX_PIXELS = 1 << 28
"""Larger images are refused before they are decoded: a small file may ask for any amount of memory."""


@host("ImageDecoder")
def image_decoder(ctx: HostContext, stream: np.ndarray) -> np.ndarray:
    """Pixels, u8 (height, width, channels), of an encoded image, u8 (size,).

    Raises:
        MissingDependencyError: Pillow is not installed.
        InputError: the bytes are no image, or one that is too large.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        what = "ImageDecoder needs Pillow, which is not installed"
        raise MissingDependencyError(what, where=str(ctx.node.loc), next_step="pip install pillow") from error
    wanted = str(ctx.attr("pixel_format"))
    try:
        with Image.open(BytesIO(stream.astype(np.uint8).tobytes())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"an image of {image.width} x {image.height} pixels is too large",
                    where=str(ctx.node.loc),
                    next_step=f"feed at most {MAX_PIXELS} pixels",
                )
            if wanted == "Grayscale":
                return np.asarray(image.convert("L"), np.uint8)[..., None]
            pixels = np.asarray(image.convert("RGB"), np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"the image cannot be decoded: {error}", where=str(ctx.node.loc), next_step="feed the bytes of an image file that Pillow reads"
        ) from error
    return np.ascontiguousarray(pixels[..., ::-1]) if wanted == "BGR" else pixels
