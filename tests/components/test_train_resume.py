"""A training resumes at its backup, or begins again if the backup cannot be read: nobody has to remove it."""

import numpy as np
import pytest

from components.files import append_json
from components.train.fit import _resume
from keras_spatial import backup, processes


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_a_damaged_backup_in_the_scratch_folder_begins_the_training_with_an_empty_log(tmp_path, damage, capsys):
    path, log = tmp_path / "backup.npz", tmp_path / "epochs.jsonl"
    backup.write(path, [], [], epoch=3, step=2)
    append_json(log, {"epoch": 2, "seconds": 1.0, "values": {"loss": 1.0}})
    assert _resume(path, log, processes.Processes()) == 3
    assert "train: resuming in epoch 4, after step 2" in capsys.readouterr().out
    assert log.exists()
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[:-50], "text": b"text"}[damage])
    with pytest.warns(UserWarning, match=r"renamed to backup.npz.unreadable-1"):
        assert _resume(path, log, processes.Processes()) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["backup.npz.unreadable-1"]
    with np.testing.assert_no_warnings():
        assert _resume(path, log, processes.Processes()) == 0
