"""Window arithmetic against its definition: the set of inputs that outputs really read, one by one."""

import itertools

import pytest

from keras_spatial.layout import TransposedWindow, Window

WINDOWS = [Window(*w) for w in itertools.product((1, 2, 3, 4, 7), (1, 2, 3), (1, 2)) if w[1] == 1 or w[2] == 1]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
def test_halos_hold_all_inputs_that_a_block_of_outputs_reads(window, padding):
    size, length = 48, 6 * window.stride
    before = window.padding_before(size, padding)
    below, above = window.halo(before)
    for block in range(3):
        outputs = range(block * length // window.stride, (block + 1) * length // window.stride)
        reads = {o * window.stride - before + tap * window.dilation for o in outputs for tap in range(window.size)}
        assert min(reads) >= block * length - below
        assert max(reads) < (block + 1) * length + above
        if window.extent - window.stride >= before:
            assert (min(reads), max(reads)) == (block * length - below, (block + 1) * length + above - 1)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [11, 12, 13])
def test_same_padding_is_tensorflows(window, size):
    """All outputs are centred: the padding before is equal to that after, or one less."""
    outputs = window.output_size(size, "same")
    assert outputs == -(-size // window.stride)
    total = max((outputs - 1) * window.stride + window.extent - size, 0)
    assert window.padding_before(size, "same") == total // 2


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (3, 1), (1, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_transposed_halos_hold_all_inputs_that_reach_a_block(size, stride, padding):
    window = TransposedWindow(size, stride)
    length = 4
    crop = window.crop_before(20, padding)
    below, above = window.halo(crop)
    for block in range(1, 3):
        outputs = range(block * length * stride, (block + 1) * length * stride)
        reads = {i for o in outputs for tap in range(size) for i in range(40) if i * stride + tap - crop == o}
        if reads:
            assert min(reads) >= block * length - below
            assert max(reads) < (block + 1) * length + above
