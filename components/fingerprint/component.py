"""The component `fingerprint`."""

from components.base import component


@component
def fingerprint(data: str) -> str:
    """Digest of the names and the contents of the files in a folder, and at a URL of the store's versions.

    KFP's cache knows a folder's name only. With this, which is never cached, as an input the next step is taken from
    the cache for as long as its files are the same.

    Args:
        data: A folder that is mounted where the step runs, or a URL.

    Returns:
        The digest.
    """
    from components.resume import fingerprint as digest

    return digest(data)
