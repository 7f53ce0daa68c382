"""What the op's project may be called, told before torch is loaded."""

import re


def check_owner(owner: str) -> None:
    """Raise ValueError unless it can be a user's or an organisation's name on the Hub."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?", owner):
        raise ValueError(f"--owner is a user's or an organisation's name on the Hub, got {owner!r}")
