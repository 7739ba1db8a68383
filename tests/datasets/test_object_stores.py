"""Data sets from files in an object store, and data sets at a URL, with a real S3-compatible server on loopback."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import s3_server
import tensorflow_datasets as tfds
from folders import tree

from datasets import decathlon, lits, object_store, origins, phantom, publishing
from datasets.cases import BadCasesError, ChangedCaseError, LabelValueError, NoCasesError, OtherSourcesError
from datasets.decathlon.layout import read_layout
from datasets.lits import conversion
from datasets.lits.cases import find_cases
from keras_spatial.volumes import FileNameError


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(publishing.CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "lits"
    phantom.write_lits_folder(folder, 4, size=16)
    return folder


def write_toy(folder, cases=4):
    """The Decathlon's layout with one MR channel."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(cases):
        label = np.zeros((10, 8, 6), np.uint8)
        label[2:6, 2:6, 1 + number % 3 : 4] = 1
        image = (100 * label + rng.normal(0, 5, label.shape)).astype(np.float32)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / f"case_{number}.nii.gz")
    names = [f"case_{number}.nii.gz" for number in range(cases)]
    description = {
        "name": "Toy",
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "core"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "toy"
    write_toy(folder)
    return folder


def put(folder, url):
    object_store.system(url).put(str(folder), url, recursive=True)
    return url


def names_of(folder):
    return sorted(tree(folder))


def test_a_build_from_a_bucket_equals_the_local_one_and_reads_each_file_once(server, bucket, folder, tmp_path):
    url = put(folder, f"{bucket}/lits")
    local = lits.prepare(folder, tmp_path / "local", 16)
    remote = lits.prepare(url, tmp_path / "remote", 16)
    assert tree(remote.data_path) == tree(local.data_path)
    assert server.below(url) == dict.fromkeys(names_of(folder), 1)
    # It knows its sources by their versions, and reads none of them again.
    assert lits.prepare(url, tmp_path / "remote", 16).info.splits["train"].num_examples == 2
    assert server.below(url) == dict.fromkeys(names_of(folder), 1)


def test_tfds_itself_reads_a_bucket(server, bucket, folder, tmp_path):
    url = put(folder, f"{bucket}/lits")
    builder = lits.Builder(config=lits.LitsConfig(resolution=16), data_dir=str(tmp_path))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=url))
    assert builder.info.splits["train"].num_examples == 2
    assert server.below(url) == dict.fromkeys(names_of(folder), 1)


def test_a_described_folder_in_a_bucket_is_read_once_too(server, bucket, toy, tmp_path):
    url = put(toy, f"{bucket}/toy")
    local = decathlon.prepare(toy, tmp_path / "local", spacing="median")
    remote = decathlon.prepare(url, tmp_path / "remote", spacing="median")
    assert tree(remote.data_path) == tree(local.data_path)
    assert server.below(url) == dict.fromkeys(names_of(toy), 1)


def test_the_disk_holds_one_case_at_a_time_beyond_what_may_be_kept(server, bucket, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "KEPT_BYTES", 0)
    url = put(toy, f"{bucket}/toy")
    with origins.opened(url) as origin:
        for case in read_layout(origin.folder).cases:
            with origin.near(case) as near:
                here = [p for p in origin.folder.parents[1].rglob("*") if p.is_file() and p.stat().st_size]
                assert sorted(here) == sorted([origin.folder / "dataset.json", *near.files])
    server.reads.clear()
    assert decathlon.prepare(url, tmp_path / "data").info.splits["train"].num_examples == 2
    # Once to examine them, and once to convert them.
    assert server.below(url) == {name: 1 if name == "dataset.json" else 2 for name in names_of(toy)}


def test_a_file_that_was_changed_in_the_bucket_is_noticed(server, bucket, folder, tmp_path):
    url = put(folder, f"{bucket}/lits")
    lits.prepare(url, tmp_path, 16)
    object_store.system(url).put_file(str(folder / "segmentation-1.nii.gz"), f"{url}/segmentation-0.nii.gz")
    server.reads.clear()
    with pytest.raises(OtherSourcesError, match=r"new, changed or missing cases \['volume-0'\]"):
        lits.prepare(url, tmp_path, 16)
    # Only the version shows that the object has changed, so it is read once.
    assert server.below(url) == {"segmentation-0.nii.gz": 1}


def test_a_bad_case_is_named_by_its_url_and_the_others_are_not_read_again(server, bucket, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "spoilt")
    image = nib.load(folder / "segmentation-1.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "spoilt" / "segmentation-1.nii.gz")
    url = put(tmp_path / "spoilt", f"{bucket}/lits")
    with pytest.raises(LabelValueError, match=f"^{url}/segmentation-1.nii.gz: expected the labels"):
        lits.prepare(url, tmp_path / "data", 16)
    left_out = lits.prepare(url, tmp_path / "skipped", 16, on_bad_case="skip").info.metadata["bad_cases"]
    assert [(bad["case"], bad["error"]) for bad in left_out] == [("volume-1", "LabelValueError")]
    object_store.system(url).put_file(str(folder / "segmentation-1.nii.gz"), f"{url}/segmentation-1.nii.gz")
    server.reads.clear()
    lits.prepare(url, tmp_path / "data", 16)
    assert server.below(url) == {"volume-1.nii.gz": 1, "segmentation-1.nii.gz": 1}


def test_a_file_that_is_overwritten_after_the_listing_is_refused(bucket, folder):
    url = put(folder, f"{bucket}/lits")
    with origins.opened(url) as origin:
        first, second, *_ = find_cases(origin.folder)
        store = object_store.system(url)
        store.put_file(str(folder / "volume-1.nii.gz"), f"{url}/volume-0.nii.gz")
        with pytest.raises(ChangedCaseError, match=f"{url}/volume-0.nii.gz: expected the file as"), origin.near(first):
            pass
        store.rm(f"{url}/segmentation-1.nii.gz")
        with pytest.raises(ChangedCaseError, match="Received: nothing"), origin.near(second):
            pass


def test_the_heads_of_objects_are_in_memory_a_few_at_a_time(server, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "HEADS_AT_ONCE", 2)
    written = {f"{number}.dcm": bytes([number]) * (origins.HEAD_BYTES + number) for number in range(5)}
    (tmp_path / "study").mkdir()
    for name, content in written.items():
        (tmp_path / "study" / name).write_bytes(content)
    with origins.opened(put(tmp_path / "study", f"{bucket}/study")) as origin:
        server.heads.clear()
        heads = origin.heads(list(written))
        found = [next(heads)]
        assert sum(server.heads.values()) == 2
        found += heads
    assert found == [content[: origins.HEAD_BYTES] for content in written.values()]
    assert sum(server.heads.values()) == 5


def test_an_empty_object_and_one_that_is_gone_have_an_empty_head(bucket, tmp_path):
    (tmp_path / "study").mkdir()
    for name, content in (("empty", b""), ("gone", b"gone"), ("there", b"there")):
        (tmp_path / "study" / name).write_bytes(content)
    url = put(tmp_path / "study", f"{bucket}/study")
    with origins.opened(url) as origin:
        object_store.system(url).rm(f"{url}/gone")
        assert list(origin.heads(["empty", "gone", "there"])) == [b"", b"", b"there"]


def test_a_head_that_the_store_forbids_to_read_is_an_error_that_names_it(server, bucket, tmp_path):
    (tmp_path / "study").mkdir()
    for name in ("a", "b"):
        (tmp_path / "study" / name).write_bytes(b"DICM")
    url = put(tmp_path / "study", f"{bucket}/study")
    server.forbid(f"{url}/b")
    refusal = pytest.raises(lits.StorageError, match=f"^{url}/b: PermissionError: .*Look at the address")
    with origins.opened(url) as origin, refusal:
        list(origin.heads(["a", "b"]))


def test_heads_from_a_server_that_is_gone_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3_server.running() as server:
        url = f"{s3_server.bucket_of(server, monkeypatch, tmp_path)}/study"
        object_store.system(url).pipe_file(f"{url}/a", b"DICM")
        with origins.opened(url) as origin:
            server.stop()
            with pytest.raises(lits.StorageError, match=f"^{url}/a: EndpointConnectionError: "):
                list(origin.heads(["a"]))


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_file_url_is_the_path_that_it_names(folder, tmp_path, host):
    url = f"file://{host}{folder}"
    assert object_store.path_of(url) == folder
    assert sorted(object_store.listing(url)[1]) == names_of(folder)
    with origins.opened(url) as origin:
        assert [case.number for case in find_cases(origin.folder)] == [0, 1, 2, 3]
    store = object_store.system(url)
    store.put_file(str(folder / "volume-0.nii.gz"), f"file://{host}{tmp_path}/copy")
    assert (tmp_path / "copy").read_bytes() == store.cat_file(f"{url}/volume-0.nii.gz")


@pytest.mark.parametrize(
    "url, received",
    [
        ("file://server/lits", "the host 'server'"),
        ("file://lits", "the host 'lits'"),
        ("file://./lits", r"the host '\.'"),
        ("file://127.0.0.1/lits", "the host"),
        ("file://", "no path"),
        ("file://localhost", "the host 'localhost'"),
    ],
)
def test_a_file_url_of_another_machine_is_refused_by_its_host(url, received, tmp_path):
    for read in (object_store.path_of, object_store.system, object_store.listing, lambda u: lits.prepare(u, tmp_path)):
        with pytest.raises(lits.StorageError, match=f"^{re.escape(url)}: expected file:///PATH.* Received: {received}"):
            read(url)


def test_what_is_not_there_is_named_by_its_url(bucket, folder, tmp_path):
    with pytest.raises(NoCasesError, match=f"{bucket}/none: no such folder"):
        lits.prepare(f"{bucket}/none", tmp_path, 16)
    with pytest.raises(NoCasesError, match=f"{bucket}/none: no such folder"):
        decathlon.prepare(f"{bucket}/none", tmp_path)
    with pytest.raises(lits.StorageError, match=r"s3://no-such-bucket/x: .*Look at the address, the credentials"):
        lits.prepare("s3://no-such-bucket/x", tmp_path, 16)


@pytest.mark.parametrize("name", ["../escaped.nii", "a//b.nii", "/volume-0.nii", "volume-0.nii.gz/under.nii"])
def test_objects_whose_names_are_no_files_are_named(tmp_path, name):
    (tmp_path / "scratch").mkdir()
    with pytest.raises(FileNameError, match=r"s3://bucket/folder/.*: rename the object"):
        listed = {"volume-0.nii.gz": origins.Listed(1, ""), name: origins.Listed(1, "")}
        origins.StoreOrigin("s3://bucket/folder", listed, tmp_path / "scratch", {})
    assert not list(tmp_path.rglob("escaped.nii"))


def test_a_data_set_at_a_url_is_built_once_for_all_machines(server, bucket, folder, tmp_path, monkeypatch):
    url = f"{bucket}/data"
    local = lits.prepare(folder, tmp_path / "local", 16)
    assert tree(lits.prepare(folder, url, 16).data_path) == tree(local.data_path)
    name = f"lits/{local.builder_config.name}/{local.version}"
    object_store.system(url).get(f"{url}/{name}", str(tmp_path / "back"), recursive=True)
    assert tree(tmp_path / "back") == tree(local.data_path)

    def never(*arguments, **options):
        raise AssertionError("built again")

    monkeypatch.setattr("datasets.preparing.build", never)
    monkeypatch.setenv(publishing.CACHE_VARIABLE, str(tmp_path / "another machine"))
    server.reads.clear()
    again = lits.prepare(folder, url, 16)
    assert tree(again.data_path) == tree(local.data_path)
    assert set(server.below(f"{url}/{name}").values()) == {1}
    server.reads.clear()
    lits.prepare(folder, url, 16)
    assert not server.below(f"{url}/{name}")


def test_a_data_set_at_a_url_is_rebuilt_there_and_survives_a_store_that_fails(bucket, folder, tmp_path, monkeypatch):
    url = f"{bucket}/data"
    source = tmp_path / "source"
    shutil.copytree(folder, source)

    def full(*arguments, **options):
        raise lits.StorageError("the store is full")

    with monkeypatch.context() as broken, pytest.raises(lits.StorageError, match="full"):
        broken.setattr(publishing, "_upload", full)
        lits.prepare(source, url, 16)
    assert not object_store.system(url).find(url)
    with monkeypatch.context() as resumed:
        resumed.setattr("datasets.preparing.build", full)
        lits.prepare(source, url, 16)
    image = nib.load(source / "segmentation-0.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[labels == 2] = 1
    nib.save(nib.Nifti1Image(labels, image.affine), source / "segmentation-0.nii.gz")
    with pytest.raises(OtherSourcesError):
        lits.prepare(source, url, 16)
    rebuilt = lits.prepare(source, url, 16, on_other_sources="rebuild")
    monkeypatch.setenv(publishing.CACHE_VARIABLE, str(tmp_path / "another machine"))
    assert tree(lits.prepare(source, url, 16).data_path) == tree(rebuilt.data_path)


def test_a_store_that_fails_costs_no_case_that_was_converted(bucket, folder, tmp_path, monkeypatch):
    """Not even where the machine that built the data set is gone, and a volume has kept the converted cases."""

    def full(*arguments, **options):
        raise lits.StorageError("the store is full")

    with monkeypatch.context() as broken, pytest.raises(lits.StorageError, match="full"):
        broken.setattr(publishing, "_upload", full)
        lits.prepare(folder, f"{bucket}/data", 16, work=tmp_path / "work")
    monkeypatch.setenv(publishing.CACHE_VARIABLE, str(tmp_path / "another machine"))
    monkeypatch.setattr(conversion, "read_case", lambda *_: pytest.fail("converted again"))
    again = lits.prepare(folder, f"{bucket}/data", 16, work=tmp_path / "work")
    assert again.info.splits["train"].num_examples == 2


def test_converted_cases_stay_until_the_data_set_is_in_the_store(bucket, folder, tmp_path, monkeypatch):
    kept, real = [], publishing._upload

    def upload(place, *given):
        kept.append(sorted(path.name for path in place.parents[1].glob("converted/16-blocks-1x1x1/*")))
        if len(kept) == 1:
            raise lits.StorageError("the store is full")
        real(place, *given)

    monkeypatch.setattr(publishing, "_upload", upload)
    with pytest.raises(lits.StorageError, match="full"):
        lits.prepare(folder, f"{bucket}/data", 16)
    builder = lits.prepare(folder, f"{bucket}/data", 16)
    assert kept == [[f"volume-{number}" for number in range(4)]] * 2
    assert not list(builder.data_path.parents[1].glob("converted/*"))


def test_converted_cases_do_not_stay_if_another_machine_publishes_the_data_set(bucket, folder, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise lits.StorageError("the store is full")

    with monkeypatch.context() as broken, pytest.raises(lits.StorageError, match="full"):
        broken.setattr(publishing, "_upload", full)
        lits.prepare(folder, f"{bucket}/data", 16)
    assert len(list((tmp_path / "cache").glob("*/lits/converted/*/*"))) == 4
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv(publishing.CACHE_VARIABLE, str(tmp_path / "another machine"))
        lits.prepare(folder, f"{bucket}/data", 16)
    monkeypatch.setattr("datasets.preparing.build", lambda *_: pytest.fail("built again"))
    lits.prepare(folder, f"{bucket}/data", 16)
    assert not list((tmp_path / "cache").glob("*/lits/converted/*"))


def test_everything_may_be_in_the_bucket(bucket, toy, tmp_path):
    url = put(toy, f"{bucket}/toy")
    built = decathlon.prepare(url, f"{bucket}/data")
    assert tree(built.data_path) == tree(decathlon.prepare(toy, tmp_path / "local").data_path)


def test_several_bad_cases_are_listed_by_their_urls(bucket, toy, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(toy, spoilt)
    for number in (0, 2):
        (spoilt / f"imagesTr/case_{number}.nii.gz").unlink()
    url = put(spoilt, f"{bucket}/toy")
    with pytest.raises(BadCasesError) as caught:
        decathlon.prepare(url, tmp_path / "data")
    assert f"{url}/imagesTr/case_0.nii.gz: case case_0 has no channel 0" in str(caught.value)
    assert str(tmp_path) not in str(caught.value) and "/tmp" not in str(caught.value)
