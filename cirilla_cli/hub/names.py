"""Names of repositories on the Hub."""

import re

# Letters, digits, `-`, `_`, `.`; no doubled or outer marks; 96 characters at most (huggingface_hub, validate_repo_id).
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"^(?=.{{3,96}}$){_PART}/{_PART}$")


def is_hub_name(text: str) -> bool:
    """Whether ``text`` can be OWNER/NAME on the Hub."""
    return _NAME.match(text) is not None and not text.endswith(".git")
