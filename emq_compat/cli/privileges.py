"""``--uid``, ``--gid``, ``--umask``: as whom a worker runs."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
from collections.abc import Sequence

from emq_compat.errors import ConfigurationError

__all__ = ["become", "become_as_written", "set_umask"]


def set_umask(written: str | None) -> None:
    """Have files be made under this umask, in octal (``022``); None: as it is.

    Raises:
        ConfigurationError: it is none.
    """
    if written is None:
        return
    try:
        mask = int(written, 8)
        if not 0 <= mask <= 0o777:
            raise ValueError(written)
    except ValueError:
        raise ConfigurationError(f"--umask takes an octal number such as 022, not {written!r}") from None
    os.umask(mask)


def become(user: str | None, group: str | None) -> None:
    """Run as another user and group from now on, for good; with no group: as the user's own ones.

    Does nothing where both are None, or where this process is that user and group already.

    Raises:
        ConfigurationError: there is no such user or group, or this process may not become it.
    """
    if user is None and group is None:
        return
    entry = _user(user) if user is not None else None
    uid = os.geteuid() if entry is None else entry.pw_uid
    gid = _group(group) if group is not None else os.getegid() if entry is None else entry.pw_gid
    if (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) == (uid, uid, gid, gid):
        return
    try:
        if entry is not None and group is None:
            os.initgroups(entry.pw_name, gid)
        else:
            os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as exc:
        raise ConfigurationError(
            f"this process may not become user {uid}, group {gid}: {exc.strerror or exc}; only root may"
        ) from exc
    _check_there_is_no_way_back(uid)


def become_as_written(words: Sequence[str]) -> None:
    """Become whom ``--uid`` and ``--gid`` on a command line name, before any of a project's code is imported.

    Raises:
        ConfigurationError: as ``become``.
    """
    become(_said("--uid", words), _said("--gid", words))


def _said(option: str, words: Sequence[str]) -> str | None:
    found = None
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == "--":
            break
        if word == option and following:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _check_there_is_no_way_back(uid: int) -> None:
    if uid == 0:
        return
    try:
        os.setuid(0)
    except OSError:
        return
    raise ConfigurationError(f"user {uid} could become root again: this worker doesn't start")


def _user(written: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(written)) if written.isdecimal() else pwd.getpwnam(written)
    except KeyError:
        raise ConfigurationError(f"--uid: there is no user {written!r}") from None


def _group(written: str) -> int:
    try:
        return (grp.getgrgid(int(written)) if written.isdecimal() else grp.getgrnam(written)).gr_gid
    except KeyError:
        raise ConfigurationError(f"--gid: there is no group {written!r}") from None
