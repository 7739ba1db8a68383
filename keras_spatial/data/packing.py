"""How the data sets store arrays: one process, a Beam worker, compresses them, and another writes the bytes unchanged.

An array is stored in blocks, each a zlib stream of its own, behind a table of their offsets. So one value of a record
holds the whole array, as users of TFDS expect, and a reader that knows where the value is can read any block by itself.

This module needs the extras `app` and `medical`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from isal import isal_zlib

from keras_spatial.data.boxes import block, divided

# For CT blocks its streams are as small as those of zlib's default level 6, in a twentieth of the time: see
# benchmarks/input.py.
_LEVEL = 2
# Deflate cannot compress better than 1:1032.
DEFLATE_LIMIT = 1032
OFFSET = np.dtype("<u8")
"""The type of an entry of the table: where a block begins, counted from the first byte of the table."""


@dataclass(frozen=True)
class Packed:
    """An array as one value of a record.

    Attributes:
        data: n + 1 offsets, the last of which is the length of `data`, and the n blocks as zlib streams of their bytes
            in C order; the blocks in the order of `boxes.divided`.
        shape: the shape of the array.
    """

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, streams: Sequence[bytes], shape: Sequence[int]) -> "Packed":
        """Join the compressed blocks of an array."""
        return cls(table(map(len, streams)) + b"".join(streams), tuple(shape))


def table(lengths: Iterable[int]) -> bytes:
    """The table of blocks with the given compressed sizes in bytes."""
    lengths = list(lengths)
    return np.cumsum([(len(lengths) + 1) * OFFSET.itemsize, *lengths]).astype(OFFSET).tobytes()


def compress(array: np.ndarray) -> bytes:
    """One block as a zlib stream."""
    return isal_zlib.compress(np.ascontiguousarray(array), _LEVEL)


def pack(array: np.ndarray, blocks: Sequence[int] = ()) -> Packed:
    """Compress an array of any shape and dtype.

    Args:
        array: the array.
        blocks: the number of blocks along its first axes.
    """
    return Packed.of([compress(array[part]) for part in divided(array.shape, blocks)], array.shape)


# TFDS finds this class by its name in features.json, and imports this module to read a data set.
class PackedTensor(tfds.features.Tensor):
    """A tensor that is stored in compressed blocks, and in another data type than the one that a reader gets.

    Args:
        shape: the shape of the tensor, with None for sizes that differ from example to example.
        dtype: the data type that a reader gets.
        stored: the data type that is compressed. It must represent every value exactly.
        blocks: the number of blocks along the first axes.
        names: the names of the classes 0, 1, ..., if the values are class numbers; also available as the attribute
            `names`.
    """

    def __init__(
        self,
        *,
        shape: tuple[int | None, ...],
        dtype: Any,
        stored: Any,
        blocks: Sequence[int] = (),
        names: Sequence[str] = (),
    ):
        super().__init__(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.ZLIB)
        self.names, self.blocks = list(names), tuple(blocks)
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in self.blocks)
        if not whole or len(self.blocks) > len(self.shape) or not all(1 <= n <= 64 for n in self.blocks):
            raise ValueError(f"blocks: expected counts from 1 to 64 for some of the first axes. Received: {blocks!r}")
        self.stored = np.dtype(stored)

    @classmethod
    def from_json_content(cls, value: Any) -> "PackedTensor":  # pyright: ignore - TFDS allows a dictionary or its proto.
        return cls(
            shape=tuple(value["shape"]),
            dtype=np.dtype(value["dtype"]),
            stored=np.dtype(value["stored"]),
            blocks=value["blocks"],
            names=value.get("names", ()),
        )

    def to_json_content(self) -> dict[str, Any]:  # pyright: ignore
        types = {"dtype": np.dtype(self.np_dtype).name, "stored": self.stored.name}
        names = {"names": self.names} if self.names else {}
        return {"shape": list(self.shape), **types, "blocks": list(self.blocks), **names}

    def get_serialized_info(self) -> Any:
        value = tfds.features.TensorInfo(shape=(), dtype=np.object_)
        if None not in self.shape:
            return value
        return {"shape": tfds.features.TensorInfo(shape=(len(self.shape),), dtype=np.int32), "value": value}

    def encode_example(self, example_data: Packed | np.ndarray) -> Any:
        """The stored form of an array. An array that is not packed yet is packed here.

        Raises:
            ValueError: if the shape or data type is not that of the feature, or the stored type changes a value.
        """
        if isinstance(example_data, np.ndarray):
            array = example_data.astype(self.stored)
            if example_data.dtype != self.np_dtype or not np.array_equal(array, example_data):
                wanted = f"{np.dtype(self.np_dtype)} array of values that are exact in {array.dtype}"
                raise ValueError(f"expected a {wanted}. Received: {example_data.dtype}, or values in between")
            example_data = pack(array, self.blocks)
        fits = len(example_data.shape) == len(self.shape) and all(
            wanted in (None, n) for n, wanted in zip(example_data.shape, self.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"expected an array of shape {self.shape}. Received: {example_data.shape}")
        if None in self.shape:
            return {"value": example_data.data, "shape": example_data.shape}
        return example_data.data

    def decode_example(self, tfexample_data: Any) -> tf.Tensor:
        value, shape = tfexample_data, self.shape
        if isinstance(tfexample_data, dict):
            value, sizes = tfexample_data["value"], tf.unstack(tfexample_data["shape"], len(self.shape))
            shape = [size if known is None else known for known, size in zip(self.shape, sizes, strict=True)]
        count = math.prod(self.blocks)
        places = tf.io.decode_raw(tf.strings.substr(value, 0, (count + 1) * OFFSET.itemsize), tf.int64)
        places = tf.unstack(tf.ensure_shape(places, [count + 1]))
        parts = []
        for number, index in enumerate(np.ndindex(*self.blocks)):
            stream = tf.strings.substr(value, places[number], places[number + 1] - places[number])
            array = tf.io.decode_raw(tf.io.decode_compressed(stream, "ZLIB"), tf.as_dtype(self.stored))
            ends = [block(i, n, s) for i, n, s in zip(index, self.blocks, shape[: len(index)], strict=True)]
            parts.append(tf.reshape(array, [*(s.stop - s.start for s in ends), *shape[len(index) :]]))
        return tf.ensure_shape(tf.cast(_joined(parts, self.blocks), self.tf_dtype), self.shape)

    def decode_example_np(self, example_data: Any) -> np.ndarray:
        return self.decode_stored(example_data).astype(self.np_dtype, copy=False)

    def decode_stored(self, example_data: Any) -> np.ndarray:
        """The array in its stored data type. It may be read-only.

        Raises:
            ValueError: if the value is not an array of its shape in these blocks.
        """
        value, shape = example_data, self.shape
        if isinstance(example_data, dict):
            value, shape = example_data["value"], example_data["shape"]
        shape = tuple(int(n) for n in shape)
        self.check_size(len(value), shape)
        count = math.prod(self.blocks)
        places = np.frombuffer(value, OFFSET, min(count + 1, len(value) // OFFSET.itemsize)).tolist()
        if len(places) != count + 1 or places[0] != (count + 1) * OFFSET.itemsize or places[-1] != len(value):
            raise ValueError(f"expected a table of {count} blocks. Received: another one, of {len(value)} bytes in all")
        parts = list(divided(shape, self.blocks))
        if count == 1:
            return self._block(value[places[0] :], shape)
        whole = np.empty(shape, self.stored)
        for part, start, stop in zip(parts, places[:-1], places[1:], strict=True):
            whole[part] = self._block(value[start:stop], whole[part].shape)
        return whole

    def check_size(self, length: int, shape: Sequence[int]) -> None:
        """Raise ValueError if a value of `length` bytes cannot have this shape, before anything is allocated for it."""
        if min(shape, default=0) < 0 or math.prod(shape) * self.stored.itemsize > length * DEFLATE_LIMIT:
            raise ValueError(f"{length} compressed bytes cannot hold an array of shape {tuple(shape)}")

    def read_block(
        self, read: Callable[[int, int], bytes], length: int, index: Sequence[int], shape: Sequence[int]
    ) -> np.ndarray:
        """Read one block in the data type that a reader gets, without reading the others. The result may be read-only.

        Args:
            read: a function of an offset and a length, which returns those bytes of the value.
            length: the length of the value.
            index: the index of the block along the first axes.
            shape: the shape of the block.

        Raises:
            ValueError, isal_zlib.error: if the value holds no such block.
        """
        count, number = math.prod(self.blocks), _number(index, self.blocks)
        size = OFFSET.itemsize
        if (count + 1) * size > length:
            raise ValueError(f"{length} bytes where a table of {count} blocks was expected")
        start, stop = np.frombuffer(read(number * size, 2 * size), OFFSET).tolist()
        if not (count + 1) * size <= start <= stop <= length:
            raise ValueError(f"a block from {start} to {stop} in a value of {length} bytes")
        return self._block(read(start, stop - start), shape).astype(self.np_dtype, copy=False)

    def _block(self, stream: bytes, shape: Sequence[int]) -> np.ndarray:
        size = math.prod(shape) * self.stored.itemsize
        return np.frombuffer(_decompressed(stream, size), self.stored).reshape(shape)


def _number(index: Sequence[int], blocks: Sequence[int]) -> int:
    """The position of a block in the order of `divided`."""
    number = 0
    for i, n in zip(index, blocks, strict=False):
        number = number * n + i
    return number


def _joined(parts: Sequence[tf.Tensor], blocks: Sequence[int]) -> tf.Tensor:
    """Concatenate blocks, the last axis fastest, along the first axes."""
    for axis in reversed(range(len(blocks))):
        n = blocks[axis]
        parts = [parts[i] if n == 1 else tf.concat(parts[i : i + n], axis) for i in range(0, len(parts), n)]
    return parts[0]


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
