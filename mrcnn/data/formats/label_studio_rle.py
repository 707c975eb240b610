"""The run lengths of Label Studio's brush: a stream of bits that holds an RGBA image, of which alpha is the mask.

    32 bits      number of values, height x width x 4
    5 bits       bits of a value, minus 1
    4 x 4 bits   sizes of the four kinds of counts in bits, minus 1
then blocks until all values are there:
    1 bit        1: one value repeated; 0: different values
    2 bits       kind of the count
    count        values of the block, minus 1
    values       one, or as many as the count says

It is the format of the package rle-pack of thi.ng/umbrella.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VALUE_BITS = 8
CHANNELS = 4
HEADER_BITS = 32 + 5 + 4 * 4


def decode_alpha(stream: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Decodes the alpha channel.

    Args:
        stream: [L] uint8.
        height, width: of the image, pixels.

    Returns:
        [height, width] uint8, 0 outside of the mask.

    Raises:
        ValueError: the stream ends too early, or is that of an image of another size.

    Example:
        >>> bits = f"{4 * 2:032b}" + "00111" + "0111" * 4 + "1" + "00" + f"{7:08b}" + "11111111"
        >>> stream = np.packbits([int(bit) for bit in bits])
        >>> decode_alpha(stream, height=1, width=2)
        array([[255, 255]], dtype=uint8)
    """
    bits = np.unpackbits(stream)
    text = stream.tobytes() + bytes(8)  # so that each read finds eight bytes

    def read(start: int, count: int) -> int:
        if start + count > len(bits):
            raise ValueError("the data end too early")
        word = int.from_bytes(text[start // 8 : start // 8 + 8], "big")
        return word >> (64 - start % 8 - count) & ((1 << count) - 1)

    total = height * width * CHANNELS
    if (found := read(0, 32)) != total:
        raise ValueError(f"{found} values; expected {height} x {width} x {CHANNELS} = {total}")
    if read(32, 5) + 1 != VALUE_BITS:
        raise ValueError(f"{read(32, 5) + 1} bits a value; expected {VALUE_BITS}")
    count_bits = [read(37 + 4 * i, 4) + 1 for i in range(4)]
    values, done, place = np.zeros(total, np.uint8), 0, HEADER_BITS
    while done < total:
        repeated, kind = read(place, 1), read(place + 1, 2)
        count = min(read(place + 3, count_bits[kind]) + 1, total - done)
        place += 3 + count_bits[kind]
        if repeated:
            values[done : done + count] = read(place, VALUE_BITS)
            place += VALUE_BITS
        else:
            end = place + count * VALUE_BITS
            if end > len(bits):
                raise ValueError("the data end too early")
            values[done : done + count] = np.packbits(bits[place:end])
            place = end
        done += count
    return values.reshape(height, width, CHANNELS)[..., 3]
