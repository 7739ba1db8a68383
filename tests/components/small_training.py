"""The settings of a training that is small enough for every test of the step that launches one."""

SETTINGS = {
    "mesh": "rows:2",
    "layout": "x:rows",
    "filters": 2,
    "levels": 2,
    "dropout": 0.0,
    "epochs": 2,
    "batch_size": 1,
    "learning_rate": 0.003,
    "minutes": 0.0,
    "seed": 0,
    "backup_steps": 50,
    "slices": 0,
}
