"""Read what is in a PNG: its size, and pixels that are not all the same."""

import struct

from matplotlib.image import imread


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
