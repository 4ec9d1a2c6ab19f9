"""Key folders: what is made, how it is read, and what the errors tell."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.keys import Keys, add_client, authorized_clients, new_keys

pytestmark = pytest.mark.unit


def test_new_keys(tmp_path: Path) -> None:
    """A new folder serves the broker and its first client, and only its owner can read it."""
    folder = tmp_path / "a" / "keys"

    broker = new_keys(folder)
    client = Keys.for_client(folder)

    assert broker == Keys.for_broker(folder)
    assert broker.public == broker.broker_public == client.broker_public
    assert {client.public: "client"} == authorized_clients(folder)
    for path in (folder, *folder.rglob("*")):
        assert (0o700 if path.is_dir() else 0o600) == stat.S_IMODE(path.stat().st_mode), path


def test_add_client(tmp_path: Path) -> None:
    """One more client gets a folder of its own, without the broker's secret, and is let in."""
    broker = new_keys(tmp_path / "keys")

    handout = add_client(tmp_path / "keys", "web-1")

    client = Keys.for_client(handout)
    assert broker.public == client.broker_public
    assert "web-1" == authorized_clients(tmp_path / "keys")[client.public]
    assert not (handout / "broker.key").exists()


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    """Making keys where there are some, or a client twice, is refused."""
    new_keys(tmp_path)
    add_client(tmp_path, "web")

    with pytest.raises(ConfigurationError, match="already holds keys"):
        new_keys(tmp_path)
    with pytest.raises(ConfigurationError, match="'web' exists already"):
        add_client(tmp_path, "web")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".x", "x" * 65, "a\n", "ü"])
def test_client_names(tmp_path: Path, name: str) -> None:
    """A client's name is a plain file name."""
    new_keys(tmp_path)

    with pytest.raises(ConfigurationError, match="can't name a client"):
        add_client(tmp_path, name)


def test_secret_is_not_shown(tmp_path: Path) -> None:
    """The secret key stays out of the representation."""
    keys = new_keys(tmp_path)

    assert keys.secret.decode() not in repr(keys)


def test_missing_folder(tmp_path: Path) -> None:
    """A missing folder is named, with the command that makes one."""
    with pytest.raises(ConfigurationError, match="nowhere doesn't exist: `emq-compat keys new"):
        Keys.for_client(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="nowhere doesn't exist"):
        authorized_clients(tmp_path / "nowhere")


def test_missing_file(tmp_path: Path) -> None:
    """A client's folder that lacks its key says which command makes it."""
    new_keys(tmp_path)
    (tmp_path / "client.key").unlink()

    with pytest.raises(ConfigurationError, match=r"client\.key is missing.*add-client"):
        Keys.for_client(tmp_path)


def test_open_file(tmp_path: Path) -> None:
    """A secret that other users can read is refused with the command that mends it."""
    new_keys(tmp_path)
    (tmp_path / "client.key").chmod(0o640)

    with pytest.raises(ConfigurationError, match=r"mode 0640.*chmod 600"):
        Keys.for_client(tmp_path)


NO_KEYS = ["", "public: short\n", "public: " + "\\" * 40 + "\n", "garbage", "public: " + "é" * 40]


@pytest.mark.parametrize("text", NO_KEYS)
def test_no_key_in_it(tmp_path: Path, text: str) -> None:
    """A file without a key is named."""
    new_keys(tmp_path)
    (tmp_path / "broker.pub").write_text(text)

    with pytest.raises(ConfigurationError, match=r"broker\.pub"):
        Keys.for_client(tmp_path)
