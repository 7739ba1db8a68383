"""Find values inside TFRecord files without reading the others.

A TFRecord file has no index, but each record begins with its length. Here a record is a `tf.train.Example`: nested
protobuf messages, each of which begins with its length, too. So a reader can go from header to header, and reads no
byte of an array before it knows which bytes it needs.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import tensorflow as tf

from keras_spatial._paths import regular
from keras_spatial.data.opening import StoreError

# A TFRecord consists of a uint64 length, a uint32 checksum of the length, the data, and a uint32 checksum of the data.
_HEADER, _FOOTER = 12, 4
# Tags of protobuf: number of the field, and that a length follows.
_FIRST, _SECOND = 0x0A, 0x12
# An entry up to the value of an array: five tags and lengths, and a name of some letters.
_PEEK = 40
# What is not an array is a name, a digest, a few numbers.
_SMALL = 1 << 16


class DamagedError(ValueError):
    """The bytes of a file are not what they should be."""


@dataclass(frozen=True)
class Span:
    """Bytes of a file from `offset` on."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class File:
    """An open file that counts the bytes read from it and is named in errors."""

    def __init__(self, path: str):
        self.path, self.bytes_read = path, 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "File":
        try:
            self._file = _open(self.path)
        except (OSError, tf.errors.OpError) as error:
            raise _missing(self.path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def read(self, span: Span) -> bytes:
        """Read exactly these bytes.

        Raises:
            StoreError: if the file ends before them.
        """
        assert self._file is not None, "open the file by `with`"
        try:
            self._file.seek(span.offset)
            data = self._file.read(span.length)
            # The kernel may give less than it is asked for, most of all beyond 2 GB.
            while len(data) < span.length and (more := self._file.read(span.length - len(data))):
                data += more
        except (OSError, tf.errors.OpError) as error:
            raise _missing(self.path, error) from error
        if len(data) != span.length:
            raise StoreError(
                f"{self.path}: truncated; build the data set again. Received: {len(data)} of {span.length} bytes"
            )
        self.bytes_read += span.length
        return data


def records(path: str, most: int) -> list[Span]:
    """The place of each record of a file, for at most `most + 1` records.

    Raises:
        StoreError: if the file cannot be read, or is not made of records.
    """
    found, position = [], 0
    try:
        size = tf.io.gfile.stat(path).length
    except (OSError, tf.errors.OpError) as error:
        raise _missing(path, error) from error
    with File(path) as file:
        while position < size and len(found) <= most:
            if size - position < _HEADER:
                raise StoreError(f"{path}: truncated, or not a TFRecord file; build the data set again.")
            length = int.from_bytes(file.read(Span(position, 8)), "little")
            record = Span(position + _HEADER, length)
            if record.end + _FOOTER > size:
                raise StoreError(f"{path}: truncated, or not a TFRecord file; build the data set again.")
            found.append(record)
            position = record.end + _FOOTER
    return found


def look(
    file: File, record: Span, names: Collection[str], arrays: Collection[str]
) -> tuple[tf.train.Example, dict[str, Span]]:
    """Read some features of an example, and find where others are.

    Args:
        file: an open file.
        record: where the example is.
        names: the names of features to read, each of at most some kilobytes.
        arrays: the names of features to look for, each a single value of bytes.

    Returns:
        An example with the features that were read, and the places of the others.

    Raises:
        DamagedError: if the bytes are not an example, or a feature is missing.
        StoreError: if they cannot be read.
    """
    window = _Window(file, record)
    found, places = {}, {}
    for entry in window.fields(window.field(record, _FIRST)):
        window.begin(entry, min(_PEEK, entry.length))
        key = window.field(entry, _FIRST, last=False)
        name = window.bytes(key).decode("utf-8", "replace")
        if name in arrays:
            value = window.field(Span(key.end, entry.end - key.end), _SECOND)
            for _ in ("Feature.bytes_list", "BytesList.value"):
                value = window.field(value, _FIRST)
            places[name] = value
        elif name in names:
            found[name] = window.bytes(entry)
    missing = sorted({*names, *arrays} - {*found, *places})
    if missing:
        raise DamagedError(f"an example without {missing}")
    try:
        return tf.train.Example.FromString(_message(b"".join(map(_message, found.values())))), places
    except Exception as error:  # The class belongs to protobuf, which is not a dependency of this package.
        raise DamagedError(f"{type(error).__name__}: {error}") from error


class _Window:
    """Bytes of a record that were read ahead, because the next reads are often among them."""

    def __init__(self, file: File, record: Span):
        self._file, self._record = file, record
        self._start, self._data = record.offset, b""

    def begin(self, span: Span, count: int) -> None:
        """Move to an offset, and read ahead the bytes that will be asked for piece by piece."""
        known = self._start + len(self._data)
        if span.offset >= known:
            self._start, self._data = span.offset, b""
        else:
            self._start, self._data = span.offset, self._data[span.offset - self._start :]
        self.bytes(Span(span.offset, count))

    def bytes(self, span: Span) -> bytes:
        """Bytes at or after the offset of the last `begin`.

        Raises:
            DamagedError: if there are too many, or they are not in the record.
        """
        if span.length > _SMALL or span.end > self._record.end:
            raise DamagedError(f"{span.length} bytes where a few were expected")
        known = self._start + len(self._data)
        if span.end > known:
            self._data += self._file.read(Span(known, span.end - known))
        return self._data[span.offset - self._start : span.end - self._start]

    def field(self, message: Span, tag: int, last: bool = True) -> Span:
        """The content of the first field of a message. If `last`, the message must have no other field.

        Raises:
            DamagedError: if there is another field, or more bytes than the message has.
        """
        head = self.bytes(Span(message.offset, min(message.length, 11)))
        size = length = 0
        for size, byte in enumerate(head[1:], 1):
            length |= (byte & 0x7F) << (7 * (size - 1))
            if byte < 0x80:
                break
        else:
            raise DamagedError("a message without a length")
        content = Span(message.offset + 1 + size, length)
        if head[0] != tag or content.end > message.end or (last and content.end != message.end):
            raise DamagedError("a message that is not one of an example")
        return content

    def fields(self, message: Span) -> Iterator[Span]:
        """The contents of all fields of a message whose fields are all of one kind."""
        while message.length:
            self.begin(message, 0)
            content = self.field(message, _FIRST, last=False)
            yield content
            message = Span(content.end, message.end - content.end)


def _message(content: bytes) -> bytes:
    """The message in the first field of another one."""
    length = len(content)
    head = bytearray([_FIRST])
    while length >= 0x80:
        head.append(0x80 | (length & 0x7F))
        length >>= 7
    return bytes([*head, length]) + content


def _open(path: str) -> BinaryIO:
    # TensorFlow's files read ahead by hundreds of kilobytes at each seek, so local files are opened by Python itself.
    if "://" in path:
        return tf.io.gfile.GFile(path, "rb")
    return regular(path).open("rb", buffering=0)


def _missing(path: str, error: Exception) -> StoreError:
    return StoreError(f"{path}: cannot be read; build the data set again. Received: {type(error).__name__}: {error}")
