"""How far a node's clock may be from the server's, and what to say of one that is farther.

Flower's nodes sign the time, and its SuperLink refuses what was signed too long ago, or in the future.
"""

AHEAD_SECONDS, BEHIND_SECONDS = 5.0, 305.0
"""What Flower allows; a test holds these to its constants."""

TIME_HEADER = "server-time"
"""The header with the server's time, seconds since 1970, in each reply of the gate."""


def is_in_time(ahead: float) -> bool:
    """Whether Flower takes what a clock signs that is so many seconds ahead of the server's."""
    return -BEHIND_SECONDS < ahead < AHEAD_SECONDS


def out_of_time(ahead: float) -> str:
    """What to tell the owner of a clock that is so many seconds ahead of the server's, behind if negative."""
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead):.1f} s {side} the server's; Flower refuses more than {AHEAD_SECONDS:g} s "
        f"ahead and {BEHIND_SECONDS:g} s behind: set it, for instance with `sudo timedatectl set-ntp true`"
    )
