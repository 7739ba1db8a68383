"""Convolutional networks on images too large for one device."""
