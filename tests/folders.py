"""Read the content of folders, which tests compare."""

from pathlib import Path


def tree(folder):
    """The bytes of every file below a folder, by its name from there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
