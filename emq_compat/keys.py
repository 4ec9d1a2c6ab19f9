"""CURVE keys in a folder: who the broker is, and which clients and workers it lets in.

    DIR/broker.pub           the broker's public key
    DIR/broker.key           the broker's pair, on the broker's machine only
    DIR/client.key           the pair that a client, worker or administrator uses
    DIR/clients/NAME.pub     public keys that the broker lets in, and what each opens
    DIR/handout/NAME/        what ``keys add-client`` made for another machine: its whole ``?keys=`` folder
    DIR/client.pub           what ``keys new-client`` made to be authorised: the public key in client.key

A key is 40 characters of Z85. Folders have mode 0700 and files 0600 (of root's, a group may read them). What
stands in clients/NAME.pub:

    public: KEY
    role: worker                  client, worker or admin (permits.py); left out: client
    publish: emails, reports.*    queues that it may publish to; left out: all
    take: emails                  queues that a worker may take from; left out: all
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from emq_compat.errors import ConfigurationError
from emq_compat.permits import ADMIN, CLIENT, Permit, patterns_in

__all__ = [
    "Keys",
    "add_client",
    "authorize",
    "authorized_clients",
    "new_client",
    "new_keys",
    "permit_client",
    "remove_client",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: The lines of clients/NAME.pub.
_LISTED = ("public", "role", "publish", "take")
_LISTED_TEXT = "public:, role:, publish: and take:, each once at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys that one side of a connection uses, Z85 text as ZeroMQ takes it.

    Attributes:
        folder: where they were read from.
        broker_public: the broker's public key.
        public, secret: this side's own pair (on the broker ``public`` is ``broker_public``).
    """

    folder: Path
    broker_public: bytes
    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def for_client(cls, folder: Path) -> Keys:
        """Read the keys of a client, worker or administrator.

        Raises:
            ConfigurationError: the folder or a file is missing, readable by others, or no key.
        """
        broker_public = _read_public(folder / "broker.pub")
        public, secret = _read_pair(folder / "client.key")
        return cls(folder=folder, broker_public=broker_public, public=public, secret=secret)

    @classmethod
    def for_broker(cls, folder: Path) -> Keys:
        """Read the broker's keys; raises ConfigurationError as ``for_client`` does."""
        public, secret = _read_pair(folder / "broker.key")
        return cls(folder=folder, broker_public=public, public=public, secret=secret)


def authorized_clients(folder: Path) -> dict[bytes, Permit]:
    """Return public key → what it opens, of every client that the folder lets in.

    Raises:
        ConfigurationError: the folder can't be read, or a file in it holds no key, or something else.
    """
    clients = folder / "clients"
    try:
        files = sorted(clients.glob("*.pub"))
        if not files and not clients.is_dir():
            raise ConfigurationError(_missing(clients))
    except OSError as exc:
        raise ConfigurationError(f"the clients' keys in {clients} can't be read: {exc.strerror}") from exc
    found: dict[bytes, Permit] = {}
    for file in files:
        public, permit = _read_listed(file)
        if public in found:
            raise ConfigurationError(f"{file} holds the key of {found[public].name!r}: remove one of the two")
        found[public] = permit
    return found


def new_keys(folder: Path) -> Keys:
    """Make a key folder with a broker's pair and one client, named ``client``; returns the broker's keys.

    That one is the administrator's key, of the broker's own machine.

    Raises:
        ConfigurationError: the folder already holds keys, or can't be written.
    """
    if (folder / "broker.key").exists() or (folder / "client.key").exists():
        raise ConfigurationError(f"{folder} already holds keys: choose another folder or move them away")
    broker_public, broker_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    with _writing(folder):
        _make_folder(folder)
        _make_folder(folder / "clients")
        _write_pair(folder / "broker.key", broker_public, broker_secret)
        _write_public(folder / "broker.pub", broker_public)
        _write_pair(folder / "client.key", client_public, client_secret)
        _write_listed(folder / "clients" / "client.pub", client_public, Permit(name="client", role=ADMIN))
    return Keys.for_broker(folder)


def add_client(
    folder: Path, name: str, *, role: str = CLIENT, publish: tuple[str, ...] = (), take: tuple[str, ...] = ()
) -> Path:
    """Let one more client in; returns the folder to be moved, as a secret, to that client's machine.

    ``role``, ``publish`` and ``take`` say what it opens, as in Permit.

    Raises:
        ConfigurationError: no broker's keys are there, the name is taken, or it is no plain file name; there
            is no such role, or it can't have such limits.
    """
    broker_public = Keys.for_broker(folder).public
    listed = _free_place(folder, name)
    permit = Permit(name=name, role=role, publish=publish, take=take)
    public, secret = zmq.curve_keypair()
    handout = folder / "handout" / name
    with _writing(handout):
        for made in (folder / "clients", folder / "handout", handout):
            _make_folder(made)
        _write_public(handout / "broker.pub", broker_public)
        _write_pair(handout / "client.key", public, secret)
        _write_listed(listed, public, permit)
    return handout


def new_client(folder: Path, broker_pub: Path) -> Path:
    """Make a client's keys on its own machine; returns the file to be authorised, which holds no secret.

    ``broker_pub`` is a copy of the broker's file broker.pub.

    Raises:
        ConfigurationError: the folder already holds keys, or can't be written; the file holds no key.
    """
    if (folder / "broker.key").exists() or (folder / "client.key").exists():
        raise ConfigurationError(f"{folder} already holds keys: choose another folder or move them away")
    broker_public = _read_public(broker_pub)
    public, secret = zmq.curve_keypair()
    with _writing(folder):
        _make_folder(folder)
        if not (folder / "broker.pub").exists():
            _write_public(folder / "broker.pub", broker_public)
        _write_pair(folder / "client.key", public, secret)
        _write_public(folder / "client.pub", public)
    return folder / "client.pub"


def authorize(
    folder: Path,
    name: str,
    client_pub: Path,
    *,
    role: str = CLIENT,
    publish: tuple[str, ...] = (),
    take: tuple[str, ...] = (),
) -> None:
    """Let in the client whose public key stands in a file that ``new_client`` made.

    ``role``, ``publish`` and ``take`` say what it opens, as in Permit.

    Raises:
        ConfigurationError: no broker's keys are there; the name is taken or no plain one; the file holds
            no key, or one that is let in already.
    """
    Keys.for_broker(folder)
    public = _read_public(client_pub)
    listed = _free_place(folder, name)
    known = authorized_clients(folder).get(public) if listed.parent.is_dir() else None
    if known is not None:
        raise ConfigurationError(f"this key is let in already, as {known.name!r}")
    permit = Permit(name=name, role=role, publish=publish, take=take)
    with _writing(folder):
        _make_folder(listed.parent)
        _write_listed(listed, public, permit)


def permit_client(
    folder: Path, name: str, *, role: str, publish: tuple[str, ...] = (), take: tuple[str, ...] = ()
) -> None:
    """Change what a client's key opens, for the connections that it has, too.

    Raises:
        ConfigurationError: there is no such client or role, or it can't have such limits, or the file can't
            be written.
    """
    listed = _place(folder, name)
    permit = Permit(name=name, role=role, publish=publish, take=take)
    public, _ = _read_listed(listed)
    made = listed.with_suffix(".new")
    with _writing(folder):
        made.unlink(missing_ok=True)
        _write_listed(made, public, permit)
        made.replace(listed)


def _free_place(folder: Path, name: str) -> Path:
    """Return where a client's public key will be listed; raises ConfigurationError for a bad name."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} can't name a client: use at most 64 letters, digits, '.', '_' and '-', "
            "the first a letter or digit"
        )
    listed = folder / "clients" / f"{name}.pub"
    if listed.exists():
        raise ConfigurationError(f"the client {name!r} exists already: {listed}")
    return listed


def remove_client(folder: Path, name: str) -> None:
    """Let a client in no more, and forget what was made for it; what it says is refused from then on.

    Raises:
        ConfigurationError: there is no such client, or its files can't be removed.
    """
    listed = _place(folder, name)
    with _writing(folder):
        listed.unlink()
        handout = folder / "handout" / name
        for made in (handout / "broker.pub", handout / "client.key"):
            made.unlink(missing_ok=True)
        if handout.is_dir():
            handout.rmdir()


def _place(folder: Path, name: str) -> Path:
    """Return where a client is listed; raises ConfigurationError where it isn't."""
    listed = folder / "clients" / f"{name}.pub"
    if not _NAME.fullmatch(name) or not listed.exists():
        there = ", ".join(sorted(permit.name for permit in authorized_clients(folder).values())) or "nobody"
        raise ConfigurationError(f"{folder} lets in no client {name!r}; it lets in: {there}")
    return listed


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(f"keys can't be written to {folder}: {exc.strerror or exc}") from exc


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write(file: Path, text: str) -> None:
    # O_EXCL: never through a link that someone laid there, never over a key that is in use.
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(text)


def _write_public(file: Path, public: bytes) -> None:
    _write(file, f"public: {public.decode()}\n")


def _write_listed(file: Path, public: bytes, permit: Permit) -> None:
    lines = [f"public: {public.decode()}", f"role: {permit.role}"]
    lines += [
        f"{name}: {', '.join(found)}" for name in ("publish", "take") if (found := getattr(permit, name))
    ]
    _write(file, "\n".join(lines) + "\n")


def _write_pair(file: Path, public: bytes, secret: bytes) -> None:
    _write(file, f"public: {public.decode()}\nsecret: {secret.decode()}\n")


def _read(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="ascii")
    except FileNotFoundError:
        raise ConfigurationError(_missing(file)) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the key file {file} can't be read: {exc}") from exc
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read_listed(file: Path) -> tuple[bytes, Permit]:
    """Read one of clients/NAME.pub. What isn't understood is refused: it may be a limit with a slip in it."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the key file {file} can't be read: {exc}") from exc
    members: dict[str, str] = {}
    for line in lines:
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not line or line.startswith("#"):
            continue
        if not colon or name not in _LISTED or name in members:
            raise ConfigurationError(
                f"{file}: {line.partition(':')[0]!r:.80} isn't one line of {_LISTED_TEXT}"
            )
        members[name] = value
    public = _key(file, members, "public")
    try:
        limits = {name: patterns_in(members[name]) for name in ("publish", "take") if name in members}
        return public, Permit(name=file.stem, role=members.get("role", CLIENT), **limits)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{file}: {exc}") from None


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the key folder {path.parent} doesn't exist: `emq-compat keys new {path.parent}` makes one"
    if path.name == "broker.key":
        return f"{path} is missing: on the broker's machine, `emq-compat keys new {path.parent}` makes it"
    return f"{path} is missing: on the broker's machine, `emq-compat keys add-client DIR NAME` makes it"


def _key(file: Path, members: dict[str, str], name: str) -> bytes:
    value = members.get(name, "")
    try:
        whole = len(value) == 40 and len(z85.decode(value.encode())) == 32
    except (ValueError, KeyError, struct.error):
        whole = False
    if not whole:
        raise ConfigurationError(f"{file} has no line `{name}: KEY` with a key of 40 characters (Z85)")
    return value.encode()


def _read_public(file: Path) -> bytes:
    return _key(file, _read(file), "public")


def _read_pair(file: Path) -> tuple[bytes, bytes]:
    members = _read(file)
    found = file.stat()
    mode = stat.S_IMODE(found.st_mode)
    # A secret that root hands to one group of users, as Kubernetes mounts them, is the group's to read.
    handed = found.st_uid == 0 and os.geteuid() != 0
    if mode & (0o037 if handed else 0o077):
        raise ConfigurationError(f"{file} is open to other users (mode {mode:04o}): `chmod 600 {file}`")
    return _key(file, members, "public"), _key(file, members, "secret")
