"""How the data sets store arrays: one process, a Beam worker, compresses them, and another writes the bytes unchanged.

This module needs the extras `app` and `medical`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from isal import isal_zlib

# For CT blocks it gives streams as small as those of zlib's default level 6, in a twentieth of the time: see
# benchmarks/input.py.
_LEVEL = 2
# Deflate cannot compress better than 1:1032.
DEFLATE_LIMIT = 1032


@dataclass(frozen=True)
class Packed:
    """The bytes of an array in C order as a zlib stream, and the array's shape."""

    data: bytes
    shape: tuple[int, ...]


def pack(array: np.ndarray) -> Packed:
    """Compress an array of any shape and dtype."""
    return Packed(isal_zlib.compress(np.ascontiguousarray(array), _LEVEL), array.shape)


# TFDS finds this class by its name in features.json, and imports this module to read a data set.
class PackedTensor(tfds.features.Tensor):
    """A `tfds.features.Tensor(encoding="zlib")` that is stored in another data type than it is read in.

    Args:
        shape: the shape of the tensor, with None for sizes that differ from example to example.
        dtype: the data type that a reader gets.
        stored: the data type that is compressed. It must represent every value exactly.
        names: the names of the classes 0, 1, ..., if the values are class numbers; also available as the attribute
            `names`.
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
        """The stored form of a packed array, or of an array that is packed here.

        Raises:
            ValueError: if the shape or data type is not that of the feature, or the stored type changes a value.
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
        # TFDS stores the shape beside the value if more than one size of the feature is unknown.
        if isinstance(self.get_serialized_info(), dict):
            return {"value": example_data.data, "shape": example_data.shape}
        return example_data.data

    def decode_example(self, tfexample_data: Any) -> tf.Tensor:
        return tf.cast(self._stored.decode_example(tfexample_data), self.tf_dtype)

    def decode_example_np(self, example_data: Any) -> np.ndarray:
        return self.decode_stored(example_data).astype(self.np_dtype, copy=False)

    def decode_stored(self, example_data: Any) -> np.ndarray:
        """The array in its stored data type. It is read-only."""
        value, shape = example_data, self.shape
        if isinstance(example_data, dict):
            value, shape = example_data["value"], example_data["shape"]
        dtype = np.dtype(self._stored.np_dtype)
        return np.frombuffer(_decompressed(value, math.prod(map(int, shape)) * dtype.itemsize), dtype).reshape(shape)


def _decompressed(stream: bytes, size: int) -> bytes:
    """The content of a zlib stream, `size` bytes; a stream with more is not decompressed to its end.

    Raises:
        ValueError: if the stream has another length.
    """
    if not 0 <= size <= len(stream) * DEFLATE_LIMIT:
        raise ValueError(f"{len(stream)} compressed bytes cannot hold the {size} bytes of the shape")
    engine = isal_zlib.decompressobj()
    content = engine.decompress(stream, max(1, size))
    # The checksum follows the last byte of the content, so one more read is needed to verify it.
    content += engine.decompress(engine.unconsumed_tail, 1) if not engine.eof else b""
    if len(content) != size or not engine.eof or engine.unused_data:
        raise ValueError(f"expected a zlib stream of {size} bytes and nothing after it. Received: another length")
    return content
