"""An image file as an array that fits an input: its size, its layout, grey or RGB, by the shape.

[3,H,W] and [H,W,3] take RGB, [1,H,W], [H,W,1] and [H,W] grey, [N] the rows of a square grey
image; each may have a batch dimension in front. Pillow reads the file, and is needed only here.
"""

import math
from dataclasses import dataclass

import numpy as np

from stoker.client.connection import ClientError
from stoker.tensor import Array, TensorSpec, shape_text


@dataclass(frozen=True, slots=True)
class Layout:
    """How an input wants an image. A height or width of -1 is the image's own."""

    height: int
    width: int
    is_rgb: bool
    shape: tuple[int, ...]
    """Of the array, without batch dimension: -1 where the image decides."""
    channels_first: bool = False


def read_image(path: str, spec: TensorSpec, *, scale: float) -> Array:
    """The image at `path`, resized, its values 0 to 255 times `scale`, without batch dimension.

    FP64, for the caller to convert. Raises ClientError if the shape is not an image's, the file
    not an image, or Pillow not installed.
    """
    layout = layout_of(spec)
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ClientError(
            f"input '{spec.name}': reading images needs Pillow (pip install pillow); "
            ".npy and .json files need nothing"
        ) from error
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB" if layout.is_rgb else "L")
    except (OSError, Image.DecompressionBombError) as error:
        raise ClientError(f"input '{spec.name}': cannot read {path}: {error}") from error
    width = image.width if layout.width == -1 else layout.width
    height = image.height if layout.height == -1 else layout.height
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float64) * scale
    if spec.datatype.numpy.kind in "iu":
        pixels = np.rint(pixels)
    if layout.channels_first and layout.is_rgb:
        return pixels.transpose(2, 0, 1)
    sizes = iter((height, width))
    return pixels.reshape([next(sizes) if size == -1 else size for size in layout.shape])


def layout_of(spec: TensorSpec) -> Layout:
    """What the input's shape says of images. Raises ClientError for a shape of something else."""
    shape = spec.shape
    is_batch = (
        len(shape) == 4
        or (len(shape) == 3 and shape[0] == -1 and shape[2] not in (1, 3))
        or (len(shape) == 2 and shape[0] in (-1, 1))
    )
    if is_batch:
        shape = shape[1:]
    match shape:
        case (1 | 3 as channels, height, width):
            return Layout(height, width, channels == 3, shape, channels_first=True)
        case (height, width, 1 | 3 as channels):
            return Layout(height, width, channels == 3, shape)
        case (height, width):
            return Layout(height, width, False, shape)
        case (size,) if size > 0 and math.isqrt(size) ** 2 == size:
            return Layout(math.isqrt(size), math.isqrt(size), False, shape)
    raise ClientError(
        f"input '{spec.name}': an image fits [C,H,W], [H,W,C], [H,W] or [N] with 1 or 3 channels "
        f"and N a square, perhaps behind a batch dimension; the input is {shape_text(spec.shape)}"
    )
