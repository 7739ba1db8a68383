"""Five-fold cross-validation on the hippocampus of the Medical Segmentation Decathlon (Task04)."""
