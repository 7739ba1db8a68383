"""LiTS-like abdominal CT phantoms: seeded, the same on every machine."""

from datasets.phantom.anatomy import Difficulty, Patient, patient
from datasets.phantom.folder import write_lits_folder
from datasets.phantom.render import render, spacing

__all__ = ["Difficulty", "Patient", "patient", "render", "spacing", "write_lits_folder"]
