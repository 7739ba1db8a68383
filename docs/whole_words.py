"""A hook for MkDocs that keeps short code such as `--help` from being broken at its hyphens at the end of a line."""

import re
from typing import Any

# The longest code that still fits into a line on a phone.
_LONGEST = 36
_CODE = re.compile(rf"<code>(?=[^<\s]*-)([^<\s]{{1,{_LONGEST}}})</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Mark the single words among a page's inline code, which the style sheet keeps whole."""
    return _CODE.sub(r'<code class="word">\1</code>', html)
