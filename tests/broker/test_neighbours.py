"""The warning about other users of a machine."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner
from pytest_mock import MockerFixture

from emq_compat.broker import running
from emq_compat.broker.neighbours import other_users
from emq_compat.broker.server import Server
from emq_compat.cli.broker import broker
from emq_compat.config import BrokerConfig
from tests.processes import unused_port

pytestmark = pytest.mark.unit


def account(name: str, uid: int, shell: str = "/bin/bash") -> pwd.struct_passwd:
    """A line of the user database."""
    return pwd.struct_passwd((name, "x", uid, uid, "", f"/home/{name}", shell))


def test_people_are_told_from_services(mocker: MockerFixture) -> None:
    """Other accounts that can log in count; the own one, services and locked ones don't."""
    found = [
        account("root", 0),
        account("www-data", 33),
        account("me", os.getuid() or 1500),
        account("locked", 1002, "/usr/sbin/nologin"),
        account("nobody", 65534),
        account("zoe", 1004),
        account("ann", 1003),
    ]
    mocker.patch("pwd.getpwall", return_value=found)
    mocker.patch("os.getuid", return_value=os.getuid() or 1500)
    assert ["ann", "zoe"] == other_users()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, True),
        ({"keys_dir": Path("keys")}, False),
        ({"frontend": "ipc:///a", "backend": "ipc:///b", "admin": "ipc:///c"}, False),
    ],
)
def test_open_tcp_is_warned_about(
    options: dict[str, object], warned: bool, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain TCP on a machine with other users is warned about; keys and sockets in a folder are not."""
    mocker.patch.object(running, "other_users", return_value=["ann", "bob", "cy", "dee"])
    running.warn_of_neighbours(BrokerConfig(**options))  # type: ignore[arg-type]
    assert warned == ("ann, bob, cy and 1 more" in caplog.text)


@pytest.mark.parametrize(("options", "level"), [([], "WARNING"), (["--for-dev"], "INFO")])
def test_a_broker_of_dev_warns_of_nothing(
    options: list[str], level: str, tmp_path: Path, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """What a broker on its own warns about is information where `dev` has begun it."""
    caplog.set_level("INFO")
    mocker.patch.object(running, "other_users", return_value=["ann"])
    mocker.patch.object(Server, "run")
    for of_the_process in ("share_one_heap", "collect_seldom"):
        mocker.patch(f"emq_compat.cli.broker.{of_the_process}")
    ports = [f"--{name}=tcp://127.0.0.1:{unused_port()}" for name in ("frontend", "backend", "admin")]
    assert 0 == CliRunner().invoke(broker, ["--memory", *ports, *options]).exit_code
    assert [level] == [record.levelname for record in caplog.records if "(ann)" in record.getMessage()]
