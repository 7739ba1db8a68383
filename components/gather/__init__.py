"""Combine the segmentations of several steps in one folder."""
