"""How the data sets store arrays: compressed in one process, a Beam worker, and written by another, as they are.

Needs the extras `app` and `medical`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from isal import isal_zlib

# On CT blocks as small as zlib's own default, 6, and made in a twentieth of its time: see benchmarks/input.py.
_LEVEL = 2
# Deflate cannot compress better than 1:1032.
DEFLATE_LIMIT = 1032


@dataclass(frozen=True)
class Packed:
    """The bytes of an array in C order as a zlib stream, and the array's shape."""

    data: bytes
    shape: tuple[int, ...]


def pack(array: np.ndarray) -> Packed:
    """Compress an array."""
    return Packed(isal_zlib.compress(np.ascontiguousarray(array), _LEVEL), array.shape)


# TFDS finds the class by the name in features.json, and imports this module to read a data set.
class PackedTensor(tfds.features.Tensor):
    """`tfds.features.Tensor(encoding="zlib")`, stored in another data type than it is read in.

    Args:
        shape: None for sizes that differ from example to example.
        dtype: what a reader gets.
        stored: what is compressed; every value has to be exact in it.
        names: what the values 0, 1, ... stand for, where they are class numbers; the attribute `names`.
    """

    def __init__(self, *, shape: tuple[int | None, ...], dtype: Any, stored: Any, names: Sequence[str] = ()):
        super().__init__(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.ZLIB)
        self.names = list(names)
        self._stored = tfds.features.Tensor(shape=shape, dtype=stored, encoding=tfds.features.Encoding.ZLIB)

    @classmethod
    def from_json_content(cls, value: Any) -> "PackedTensor":  # pyright: ignore - TFDS allows a dictionary or its proto.
        return cls(
            shape=tuple(value["shape"]),
            dtype=np.dtype(value["dtype"]),
            stored=np.dtype(value["stored"]),
            names=value.get("names", ()),
        )

    def to_json_content(self) -> dict[str, Any]:  # pyright: ignore
        types = {"dtype": np.dtype(self.np_dtype).name, "stored": np.dtype(self._stored.np_dtype).name}
        return {"shape": list(self.shape), **types, **({"names": self.names} if self.names else {})}

    def encode_example(self, example_data: Packed | np.ndarray) -> Any:
        """The stored form of a packed array, or of an array, which is then packed here.

        Raises:
            ValueError: if shape or data type are not those of the feature, or the stored type changes a value.
        """
        if isinstance(example_data, np.ndarray):
            array = example_data.astype(self._stored.np_dtype)
            if example_data.dtype != self.np_dtype or not np.array_equal(array, example_data):
                wanted = f"{np.dtype(self.np_dtype)} array of values that are exact in {array.dtype}"
                raise ValueError(f"expected a {wanted}. Received: {example_data.dtype}, or values in between")
            example_data = pack(array)
        fits = len(example_data.shape) == len(self.shape) and all(
            wanted in (None, n) for n, wanted in zip(example_data.shape, self.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"expected an array of shape {self.shape}. Received: {example_data.shape}")
        # TFDS keeps the shape beside the value where the feature leaves more than one size open.
        if isinstance(self.get_serialized_info(), dict):
            return {"value": example_data.data, "shape": example_data.shape}
        return example_data.data

    def decode_example(self, tfexample_data: Any) -> tf.Tensor:
        return tf.cast(self._stored.decode_example(tfexample_data), self.tf_dtype)

    def decode_example_np(self, example_data: Any) -> np.ndarray:
        return self.decode_stored(example_data).astype(self.np_dtype, copy=False)

    def decode_stored(self, example_data: Any) -> np.ndarray:
        """The array in the data type in which it is stored, read-only."""
        value, shape = example_data, self.shape
        if isinstance(example_data, dict):
            value, shape = example_data["value"], example_data["shape"]
        dtype = np.dtype(self._stored.np_dtype)
        return np.frombuffer(_decompressed(value, math.prod(map(int, shape)) * dtype.itemsize), dtype).reshape(shape)


def _decompressed(stream: bytes, size: int) -> bytes:
    """The content of a zlib stream of `size` bytes; one that holds more is not decompressed to its end."""
    if not 0 <= size <= len(stream) * DEFLATE_LIMIT:
        raise ValueError(f"{len(stream)} compressed bytes cannot hold the {size} bytes of the shape")
    engine = isal_zlib.decompressobj()
    content = engine.decompress(stream, max(1, size))
    # A stream is read to its checksum, which follows the last byte of the content.
    content += engine.decompress(engine.unconsumed_tail, 1) if not engine.eof else b""
    if len(content) != size or not engine.eof or engine.unused_data:
        raise ValueError(f"expected a zlib stream of {size} bytes and nothing behind it. Received: another length")
    return content
