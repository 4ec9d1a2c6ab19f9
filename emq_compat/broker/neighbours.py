"""Who else can reach a loopback address: other people with an account on this machine."""

from __future__ import annotations

import os
import pwd

__all__ = ["other_users"]

#: Ids of people's accounts on Linux distributions (login.defs: UID_MIN, UID_MAX).
_FIRST, _LAST = 1000, 60_000
_NO_LOGIN = ("nologin", "false", "sync")


def other_users() -> list[str]:
    """Return the names of accounts, besides this user's, whose holders can log in here."""
    me = os.getuid()
    return sorted(
        account.pw_name
        for account in pwd.getpwall()
        if _FIRST <= account.pw_uid <= _LAST
        and account.pw_uid != me
        and not account.pw_shell.endswith(_NO_LOGIN)
    )
