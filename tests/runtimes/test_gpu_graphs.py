"""What a step on GPUs would do, read from its graph: there is no GPU here, and nothing is run."""

from itertools import pairwise

import keras
import pytest
import tensorflow as tf

import keras_spatial as ks
from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.processes import Processes
from keras_spatial.runtimes.collective import CollectiveMesh

SHAPE = (18, 8, 8, 1)
GPUS = ["gpu:0", "gpu:1"]


def graph_of(monkeypatch, sums="copies"):
    """The graph of a training step on images whose shards are padded and cast."""
    monkeypatch.setenv("KERAS_SPATIAL_SUMS", sums)
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2", devices=GPUS), "x:rows")
    x = inputs = keras.Input(SHAPE)
    x = keras.layers.MaxPooling3D(4, padding="same")(keras.layers.Conv3D(2, 3, padding="same")(x))
    x = keras.layers.UpSampling3D(4)(x)[:, :18]
    model = ks.partition(keras.Model(inputs, keras.layers.Conv3D(3, 1)(x)), distribution)
    model.compile("sgd", ks.losses.DiceCrossentropy(), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    specs = tf.TensorSpec((1, *SHAPE), tf.float64), tf.TensorSpec((1, *SHAPE[:-1]), tf.uint8)
    step = tf.function(lambda *data: model.train_step(data), autograph=False)
    return step.get_concrete_function(*specs).graph


def test_no_gpu_is_given_a_whole_image(monkeypatch):
    """TensorFlow would put operations without a device on the first GPU."""
    large = [
        operation
        for operation in graph_of(monkeypatch).get_operations()
        if operation.type not in ("Placeholder", "NoOp")
        and any((t.shape.rank or 0) >= 4 and t.shape[1] >= SHAPE[0] for t in operation.outputs)
    ]
    assert {operation.type for operation in large} & {"Cast", "Pad", "PadV2"}, "the image is cast and padded whole"
    assert {tf.DeviceSpec.from_string(operation.device).device_type for operation in large} == {"CPU"}


def test_nccl_sums_all_gradients_at_once_and_prunes_no_member(monkeypatch):
    graph = graph_of(monkeypatch, sums="nccl")
    sums = [operation for operation in graph.get_operations() if operation.type == "NcclAllReduce"]
    by_name = {}
    for operation in sums:
        by_name.setdefault(operation.get_attr("shared_name"), []).append(operation)
    for members in by_name.values():
        assert [m.device.rpartition("/")[2] for m in members] == ["device:GPU:0", "device:GPU:1"]
        assert {m.get_attr("num_devices") for m in members} == {2}
        readers = {reader for m in members for reader in m.outputs[0].consumers()}
        assert all(set(members) <= {*reader.control_inputs, *(t.op for t in reader.inputs)} for reader in readers)
    weights = 27 * 2 + 2 + 2 * 3 + 3
    assert [m[0].outputs[0].shape.num_elements() for m in by_name.values()].count(weights) == 1
    assert not [o for o in graph_of(monkeypatch).get_operations() if o.type == "NcclAllReduce"]


def test_other_sums_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"KERAS_SPATIAL_SUMS: expected 'copies' or 'nccl'. Received: 'ring'"):
        graph_of(monkeypatch, sums="ring")


@pytest.mark.parametrize("communication", ["nccl", "ring"])
def test_messages_by_nccl_follow_each_other_in_the_order_in_which_all_processes_make_them(communication):
    """NCCL waits for ever if two processes start their messages in different orders; gRPC knows each by its key."""
    job = Processes((("worker", 0), ("worker", 1)), 0, communication)
    devices = [job.device(rank, "GPU", 0) for rank in range(job.count)]
    mesh = CollectiveMesh(mtf.Shape([mtf.Dimension("rows", 2)]), mtf.LayoutRules([("x", "rows")]), devices, job)
    with tf.Graph().as_default() as graph:
        shard = mesh.LaidOutTensor([tf.ones([4, 4])])
        mesh.receive(shard, 0, [None, 0])
        mesh.receive(shard, 0, [1, None])
        mesh.allreduce(shard, [0], "SUM")
    messages = [operation for operation in graph.get_operations() if operation.type.startswith("Collective")]
    assert [m.type for m in messages] == ["CollectiveBcastSendV2", "CollectiveBcastRecvV2", "CollectiveReduceV2"]
    assert {m.get_attr("communication_hint").decode() for m in messages} == {communication}
    chained = [before in _waits_for(after) for before, after in pairwise(messages)]
    assert chained == [communication == "nccl"] * 2


def _waits_for(operation) -> set:
    """All operations that run before an operation."""
    found, pending = set(), [operation]
    while pending:
        one = pending.pop()
        before = {*one.control_inputs, *(t.op for t in one.inputs)} - found
        found |= before
        pending += before
    return found
