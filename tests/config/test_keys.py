"""Key folders: what is made, how it is read, and what the errors tell."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.keys import Keys, add_client, authorized_clients, new_keys, permit_client
from emq_compat.permits import Permit

pytestmark = pytest.mark.unit


def test_new_keys(tmp_path: Path) -> None:
    """A new folder serves the broker and its first client, and only its owner can read it."""
    folder = tmp_path / "a" / "keys"

    broker = new_keys(folder)
    client = Keys.for_client(folder)

    assert broker == Keys.for_broker(folder)
    assert broker.public == broker.broker_public == client.broker_public
    assert {client.public: Permit(name="client", role="admin")} == authorized_clients(folder)
    for path in (folder, *folder.rglob("*")):
        assert (0o700 if path.is_dir() else 0o600) == stat.S_IMODE(path.stat().st_mode), path


def test_add_client(tmp_path: Path) -> None:
    """One more client gets a folder of its own, without the broker's secret, and is let in."""
    broker = new_keys(tmp_path / "keys")

    handout = add_client(tmp_path / "keys", "web-1")

    client = Keys.for_client(handout)
    assert broker.public == client.broker_public
    assert Permit(name="web-1", role="client") == authorized_clients(tmp_path / "keys")[client.public]
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes root's files")
def test_roots_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root lets a group read is that group's secret; what others can read or change is none."""
    new_keys(tmp_path)
    (tmp_path / "client.key").chmod(0o440)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Keys.for_client(tmp_path).secret

    for mode in (0o444, 0o460):
        (tmp_path / "client.key").chmod(mode)
        with pytest.raises(ConfigurationError, match=f"mode {mode:04o}"):
            Keys.for_client(tmp_path)

    (tmp_path / "client.key").chmod(0o440)
    os.chown(tmp_path / "client.key", 1001, -1)
    with pytest.raises(ConfigurationError, match="mode 0440"):
        Keys.for_client(tmp_path)


NO_KEYS = ["", "public: short\n", "public: " + "\\" * 40 + "\n", "garbage", "public: " + "é" * 40]


@pytest.mark.parametrize("text", NO_KEYS)
def test_no_key_in_it(tmp_path: Path, text: str) -> None:
    """A file without a key is named."""
    new_keys(tmp_path)
    (tmp_path / "broker.pub").write_text(text)

    with pytest.raises(ConfigurationError, match=r"broker\.pub"):
        Keys.for_client(tmp_path)


def test_what_a_key_opens(tmp_path: Path) -> None:
    """Role and queues are written beside the public key, read again, and changed in place."""
    new_keys(tmp_path)
    key = Keys.for_client(add_client(tmp_path, "w", role="worker", publish=("a", "b.*"), take=("c",))).public
    made = Permit(name="w", role="worker", publish=("a", "b.*"), take=("c",))
    assert made == authorized_clients(tmp_path)[key]

    permit_client(tmp_path, "w", role="client", publish=("a",))

    assert Permit(name="w", role="client", publish=("a",)) == authorized_clients(tmp_path)[key]
    assert ["client.pub", "w.pub"] == sorted(file.name for file in (tmp_path / "clients").iterdir())
    assert 0o600 == stat.S_IMODE((tmp_path / "clients" / "w.pub").stat().st_mode)


def test_a_key_without_a_role_is_a_clients(tmp_path: Path) -> None:
    """A file that holds a public key alone, with comments and blank lines, opens least."""
    new_keys(tmp_path)
    listed = tmp_path / "clients" / "client.pub"
    public = listed.read_text().splitlines()[0]
    listed.write_text(f"# ours\n\n{public}\n")

    assert [Permit(name="client", role="client")] == list(authorized_clients(tmp_path).values())


BAD_LINES = [
    ("role: root", "there is no role 'root'"),
    ("rol: admin", "'rol' isn't one line of public:"),
    ("publsh: a", "'publsh' isn't one line"),
    ("role", "'role' isn't one line"),
    ("role: client\nrole: admin", "'role' isn't one line"),
    ("publish:", "is no list of queues"),
    ("publish: a,,b", "is no list of queues"),
    ("publish: a\x00b", "is no list of queues"),
    ("take: a", "a client takes no messages"),
    ("role: admin\npublish: a", "opens every queue"),
    ("secret: x", "'secret' isn't one line"),
]


@pytest.mark.parametrize(("lines", "why"), BAD_LINES)
def test_a_line_with_a_slip_lets_nobody_in(tmp_path: Path, lines: str, why: str) -> None:
    """A line that isn't understood is an error that names file and line, and opens nothing."""
    new_keys(tmp_path)
    listed = tmp_path / "clients" / "client.pub"
    listed.write_text(f"{listed.read_text().splitlines()[0]}\n{lines}\n")

    with pytest.raises(ConfigurationError, match=f"client.pub.*{why}"):
        authorized_clients(tmp_path)


def test_a_key_is_listed_once(tmp_path: Path) -> None:
    """The same key under two names could open two things, and is refused."""
    new_keys(tmp_path)
    text = (tmp_path / "clients" / "client.pub").read_text()
    (tmp_path / "clients" / "other.pub").write_text(text)

    with pytest.raises(ConfigurationError, match=r"other\.pub holds the key of 'client'"):
        authorized_clients(tmp_path)


@pytest.mark.parametrize(
    ("patterns", "queue", "open_"),
    [
        ((), "any", True),
        (("a",), "a", True),
        (("a",), "ab", False),
        (("a*",), "ab", True),
        (("*.x",), "a.x", True),
        (("*.x",), "a.xy", False),
        (("a.c",), "abc", False),
        (("b", "a"), "a", True),
        (("*",), "", True),
        (("a*a",), "a", False),
        (("a*b*c",), "axbxc", True),
        (("a*b*c",), "axcxb", False),
        (("a*" * 100,), "a" * 254 + "b", True),
        (("a*" * 100 + "a",), "a" * 254 + "b", False),
    ],
)
def test_patterns_of_queues(patterns: tuple[str, ...], queue: str, open_: bool) -> None:
    """A pattern's * stands for any text, everything else for itself, and all of a name counts."""
    assert open_ == Permit(name="k", publish=patterns).may_publish(queue)


def test_roles_include_each_other() -> None:
    """Who takes from a queue may publish to it, a client takes nothing, an admin everything."""
    worker = Permit(name="w", role="worker", publish=("a",), take=("b",))
    assert [True, True, False] == [worker.may_publish(queue) for queue in "abc"]
    assert [False, True, False] == [worker.may_take(queue) for queue in "abc"]
    client, admin = Permit(name="c"), Permit(name="a", role="admin")
    assert (False, True) == (client.may_take("a"), admin.may_take("a"))
    assert [False, True, True] == [one.is_at_least("worker") for one in (client, worker, admin)]
