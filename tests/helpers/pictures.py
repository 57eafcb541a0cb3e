"""Read what is in a PNG: its size, and pixels that are not all the same."""

import struct

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave


def size_of(path):
    """Width and height in pixels, from the header of a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def drawn(path, least_bytes=4000):
    """The pixels of a picture that must hold something."""
    assert path.stat().st_size > least_bytes
    width, height = size_of(path)
    assert 300 < width < 4000
    assert 100 < height < 6000
    pixels = imread(path)
    assert pixels[..., :3].std() > 0.02, "an empty picture"
    return pixels


def leave_unrendered(patch):
    """Have figures made, and saved as one grey pixel: for tests of the pages around them. Rendering takes most time.

    patch: a pytest.MonkeyPatch.
    """

    def save(figure, path, **options):
        imsave(path, np.full((1, 1, 3), 0.5))

    patch.setattr(Figure, "savefig", save)
