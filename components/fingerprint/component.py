"""The component `fingerprint`."""

from components.base import component


@component
def fingerprint(data: str) -> str:
    """Compute the digest of the names and contents of the files in a folder, or of the store's versions at a URL.

    KFP's cache knows only a folder's name. This step is never cached, and its digest is an input of the next step,
    which is therefore taken from the cache only while the files are the same.

    Args:
        data: A folder that is mounted where the step runs, or a URL.

    Returns:
        The digest.
    """
    from components.resume import fingerprint as digest

    return digest(data)
