"""A damaged NIfTI file is a named error, or it is read as nibabel reads it; it never takes much memory."""

import gzip
import io
import struct
import warnings

import nibabel as nib
import numpy as np
import pytest
from fuzzing import at_most, explore
from hypothesis import strategies as st

from keras_spatial.volumes import VolumeError, read_volume

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def good(image_class, order, dtype, extension):
    """A file with sform and qform, and a scale if its voxels are integers."""
    image = image_class(
        VOXELS.astype(dtype), np.diag([-0.8, -0.8, 2.5, 1.0]), image_class.header_class(endianness=order)
    )
    image.header.set_xyzt_units("mm")
    image.header.set_qform(image.affine, 1)
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment of the scanner"))
    stream = io.BytesIO()
    image.file_map["image"].fileobj = stream
    image.to_file_map()
    return stream.getvalue()


KINDS = [
    (nib.Nifti1Image, "<", np.int16, False),
    (nib.Nifti1Image, "<", np.float32, True),
    (nib.Nifti1Image, ">", np.float64, False),
    (nib.Nifti2Image, "<", np.int16, True),
    (nib.Nifti2Image, ">", np.uint8, False),
]
SEEDS = [good(*kind) for kind in KINDS]
TEMPLATES = [kind.header_class.template_dtype.newbyteorder(order) for kind, order, *_ in KINDS]

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 4, 8, 16, 64, 128, 255, 256, 348, 352, 540, 544, 32767, -32768, 2**31 - 1, 2**40]),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e-45, 1e-3, 0.5, 352.5, 760.0, 1e9, 1e30, -1e30, 3.4e38]),
    st.integers(-(2**40), 2**40),
    st.floats(width=32),
)


@st.composite
def damaged(draw):
    """The bytes of a file with one to three faults."""
    which = draw(st.integers(0, len(SEEDS) - 1))
    data = bytearray(SEEDS[which])
    template = TEMPLATES[which]
    compress = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["field", "field", "field", "byte", "bytes", "cut", "longer", "extension"]))
        if kind == "field" and len(data) >= template.itemsize:
            block = np.frombuffer(bytes(data[: template.itemsize]), template).copy()
            name = draw(st.sampled_from([n for n in template.names if block[n].dtype.kind in "iuf"]))
            values = block[name].reshape(-1)
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                number = np.float64(draw(NUMBERS))
                if values.dtype.kind in "iu" and not np.isfinite(number):
                    number = np.float64(-1)
                values[draw(st.integers(0, len(values) - 1))] = number.astype(values.dtype)
            block[name] = values.reshape(block[name].shape)
            data[: template.itemsize] = block.tobytes()
        elif kind == "byte" and data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        elif kind == "bytes" and data:
            at = draw(st.integers(0, len(data) - 1))
            data[at : at + draw(st.integers(0, 32))] = draw(st.binary(max_size=32))
        elif kind == "cut":
            del data[draw(st.integers(0, len(data))) :]
        elif kind == "longer":
            data += draw(st.sampled_from([b"", b"\0", bytes(100), bytes((1 << 20) + 1)]))
        elif kind == "extension" and len(data) > 400:
            data[348:352] = b"\1\0\0\0"
            data[352:360] = struct.pack("<ii", draw(st.integers(-64, 4096)), draw(st.integers(-1, 60)))
    content = bytes(data)
    if compress:
        content = bytearray(gzip.compress(content, 1, mtime=0))
        if draw(st.booleans()):
            content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def check(path, content):
    path.write_bytes(content)
    try:
        with at_most(48), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume = read_volume(path)
    except VolumeError as error:
        assert type(error) is not VolumeError
        assert path.name in str(error)
        assert len(str(error)) < 2_000
        return
    assert volume.array.ndim == 3
    assert np.isfinite(volume.affine).all()
    assert np.isfinite(volume.array.astype(np.float64)).all()
    assert all(0.01 <= s <= 100 for s in volume.spacing)
    theirs = nib.Nifti1Image if volume.header["sizeof_hdr"] == 348 else nib.Nifti2Image
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        plain = content if content[:2] != b"\x1f\x8b" else gzip.decompress(content)
        image = theirs.from_bytes(plain)
        np.testing.assert_allclose(volume.affine, image.affine, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            volume.array, np.asarray(image.dataobj).reshape(volume.array.shape, order="F"), rtol=1e-3, atol=1e-2
        )


def test_a_damaged_file_is_named_or_read_as_nibabel_reads_it(tmp_path):
    explore(lambda content: check(tmp_path / "volume-0.nii", content), examples=600, content=damaged())


def test_any_bytes_are_named(tmp_path):
    explore(lambda content: check(tmp_path / "volume-0.nii", content), examples=150, content=st.binary(max_size=600))


@pytest.mark.parametrize("which", range(len(SEEDS)))
def test_the_files_that_are_damaged_are_good(tmp_path, which):
    check(tmp_path / "volume-0.nii", SEEDS[which])
    np.testing.assert_allclose(read_volume(tmp_path / "volume-0.nii").array % 256, VOXELS % 256)
