"""Each file of a folder is found once, whatever links there are."""

import pytest

from keras_spatial._paths import walk


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def found(folder, **options):
    return [str(path.relative_to(folder)) for path in walk(folder, **options)]


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path, "data/b", "data/c/d", "elsewhere/e", "elsewhere/f/g")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "data") == ["b", "c/d", "a/e", "a/f/g"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_in_a_circle_come_to_an_end(tmp_path, target):
    write(tmp_path, "data/a/b", "data/c")
    (tmp_path / "data" / "a" / "loop").symlink_to(target)
    names = found(tmp_path / "data")
    assert names[:2] == ["c", "a/b"] and all("loop" in name for name in names[2:]) and len(names) <= 3


def test_a_folder_is_entered_once_under_its_own_name(tmp_path):
    write(tmp_path, "z/file")
    (tmp_path / "latest").symlink_to("z")
    (tmp_path / "newest").symlink_to("latest")
    assert found(tmp_path) == ["z/file", "latest", "newest"]


def test_hidden_folders_and_files_can_be_left_out(tmp_path):
    write(tmp_path, ".a/b", ".c", "d/.e", "d/f")
    (tmp_path / ".g").symlink_to("d")
    assert found(tmp_path, hidden=False) == ["d/f"]
    assert set(found(tmp_path)) == {".a/b", ".c", "d/.e", "d/f", ".g"}


def test_what_is_missing_holds_nothing(tmp_path):
    (tmp_path / "nowhere").symlink_to("nothing")
    assert found(tmp_path / "missing") == []
    assert found(tmp_path) == ["nowhere"]
