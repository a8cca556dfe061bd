"""How inverted residual blocks are divided without a search, and whether one kernel for the block pays."""

from __future__ import annotations

from kopt.targets.kernels.conv import Image
from kopt.targets.kernels.conv_tiling import SCRATCH_BYTES
from kopt.targets.kernels.inverted import InvertedTiling
from kopt.targets.kernels.tiling import FORMS, REGISTERS

MOST_WORK = 1.25
"""The kernel is taken up to this multiple of the cycles that an even division without repeated rows would take.

Source: the three layers one by one took 1.1 to 2.3 times as long on MobileNetV2's blocks, two cores with AVX-512.
"""

_LAUNCH_CYCLES = 2000
_SLIDE_CYCLES = 1.5  # per vector and tap: a load and a multiplication
_SLIDE_FORMS = ((14, 1), (7, 2), (4, 2), (2, 2), (1, 2), (7, 1), (4, 1), (2, 1), (1, 1))


def inverted_tiling(image: Image, inputs: int, outputs: int, expands: bool, lanes: int, cores: int) -> InvertedTiling | None:
    """The tiling of an inverted residual block; None where it cannot run as one kernel, or does not pay.

    Args:
        image: sizes of the depthwise convolution.
        inputs: channels of the block's input.
        outputs: channels of its result.
        expands: whether there is a first product.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    wide = image.channels
    inside = min(image.width, image.needed_width - image.pads[1])
    if min(wide, outputs) < lanes or image.dilations != (1, 1) or min(image.strides) < 1 or inside < 1:
        return None
    if max(image.strides) > min(image.kernel) or image.pads[0] >= image.kernel[0] or image.pads[1] >= image.kernel[1]:
        return None
    slide = _form(_SLIDE_FORMS, image.out_width, wide, lanes)
    first = _form(FORMS, inside, wide, lanes)
    best: tuple[float, InvertedTiling] | None = None
    for block in range(1, image.out_height + 1):
        rows = _together(image, block)
        tiling = InvertedTiling(first, slide, _form(FORMS, rows * image.out_width, outputs, lanes), 4, rows, block)
        tasks = image.batch * -(-image.out_height // block)
        cycles = -(-tasks // cores) * (_cycles(image, inputs, outputs, expands, block, lanes) + _LAUNCH_CYCLES)
        if _scratch(image, rows) <= SCRATCH_BYTES and (best is None or cycles <= best[0]):
            best = (cycles, tiling)
    even = image.batch * _cycles(image, inputs, outputs, expands, image.out_height, lanes) / cores
    return best[1] if best and best[0] - _LAUNCH_CYCLES <= MOST_WORK * even else None


def _together(image: Image, block: int) -> int:
    """Rows that go through all layers together: a divisor of the block, with enough pixels for a register tile."""
    divisors = [rows for rows in range(1, block + 1) if block % rows == 0]
    return next((rows for rows in divisors if rows * image.out_width >= 7), block)


def _scratch(image: Image, rows: int) -> int:
    """Bytes of the ring and of the depthwise convolution's results."""
    ring = 1 << (image.needed_rows(rows) - 1).bit_length()
    return 4 * image.channels * (ring * image.needed_width + rows * image.out_width)


def _cycles(image: Image, inputs: int, outputs: int, expands: bool, block: int, lanes: int) -> float:
    """Estimated cycles of a block of output rows, the rows of the wide image that it needs included."""
    widened = min(image.height, image.needed_rows(block) - (image.pads[0] if block == image.out_height else 0))
    expand = widened * image.width * (inputs if expands else 1)
    rest = block * image.out_width * (image.kernel[0] * image.kernel[1] * _SLIDE_CYCLES + outputs)
    return (expand + rest) * image.channels / lanes


def _form(forms: tuple[tuple[int, int], ...], pixels: int, channels: int, lanes: int) -> tuple[int, int]:
    """The (pixels, channels) of the register tile with the least padding and, then, the fewest loads a multiplication."""

    def cost(form: tuple[int, int]) -> float:
        rows, panel = form[0], form[1] * lanes
        padded = (-(-pixels // rows) * rows / pixels) * (-(-channels // panel) * panel / channels)
        return round(padded * max(1.0, 0.5 + (form[0] + form[1]) / (form[0] * form[1])), 3)

    fitting = [(r, v) for r, v in forms if r <= pixels and v * lanes <= channels and r * v + v < REGISTERS[lanes]]
    rows, vectors = min(fitting, key=lambda form: (cost(form), forms.index(form)))
    return rows, vectors * lanes
