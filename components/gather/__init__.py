"""The segmentations of several steps, put into one folder."""
