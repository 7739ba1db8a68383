"""Mesh implementations: where the slices of a tensor live, and how they reach each other."""
