"""Make a trained model ready for use elsewhere."""
