"""`emq-compat keys`."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from tests.cli.conftest import Site

pytestmark = [pytest.mark.integration]


def test_keys_let_in_who_has_one(site: Site) -> None:
    """With keys the broker answers who is let in, and refuses others, and removed ones, in bounded time."""
    made = site.emq("keys", "new", "keys")
    assert "broker --keys keys" in made
    assert "handout/laptop" in site.emq("keys", "add-client", "keys", "laptop", "--role", "admin")
    assert [["client", "admin"], ["laptop", "admin"]] == [
        line.split()[:2] for line in site.emq("keys", "list", "keys").splitlines()[1:]
    ]
    site.start_broker("--memory", "--keys", "keys")

    for folder in ("keys", "keys/handout/laptop"):
        assert 69 == site.run("status", "-b", f"{site.url}&keys={site.folder / folder}").returncode

    began = time.monotonic()
    assert f"127.0.0.1:{site.ports[0]}" in site.emq("status", "-b", site.url, status=1)
    assert time.monotonic() - began < 30

    laptop = (site.folder / "keys/handout/laptop").rename(site.folder / "laptop")
    site.emq("keys", "remove-client", "keys", "laptop")
    site.emq("status", "-b", f"{site.url}&keys={laptop}", status=1)
    assert "client" in site.emq("keys", "list", "keys")


def test_client_makes_its_own_keys(site: Site) -> None:
    """The client's secret stays on its machine: only public files are handed over, both ways."""
    site.emq("keys", "new", "keys")
    (site.folder / "elsewhere").mkdir()
    shutil.copy(site.folder / "keys/broker.pub", site.folder / "elsewhere/broker.pub")
    made = site.emq("keys", "new-client", "elsewhere/keys", "elsewhere/broker.pub")
    assert "elsewhere/keys/client.pub" in made
    assert "secret" not in (site.folder / "elsewhere/keys/client.pub").read_text()
    site.start_broker("--memory", "--keys", "keys")

    assert "office is let in" in site.emq("keys", "authorise", "keys", "office", "elsewhere/keys/client.pub")

    url = f"{site.url}&keys={site.folder / 'elsewhere/keys'}"
    assert "needs an admin's key, and 'office' is a client's" in site.emq("status", "-b", url, status=1)
    assert "Changed office" in site.emq("keys", "permit", "keys", "office", "--role", "admin")
    assert 69 == site.run("status", "-b", url).returncode
    again = ("keys", "authorise", "keys", "office2", "elsewhere/keys/client.pub")
    assert "let in already, as 'office'" in site.emq(*again, status=1)
    assert "exists already" in site.emq(*again[:3], "office", *again[4:], status=1)
    assert "already holds keys" in site.emq(
        "keys", "new-client", "elsewhere/keys", "keys/broker.pub", status=1
    )
    assert "has no line" in site.emq("keys", "authorise", "keys", "x", "proj.py", status=1)


def test_wrong_folders_and_names_are_told(site: Site) -> None:
    """Keys that exist are not overwritten; folders without keys, and names that can't be, are told."""
    site.emq("keys", "new", "keys")
    assert "already holds keys" in site.emq("keys", "new", "keys", status=1)
    assert "keys new" in site.emq("keys", "add-client", "nothere", "x", status=1)
    worker = ("keys", "permit", "keys", "client", "--role", "worker", "--publish", "a,b*", "--take")
    assert "is no list of queues" in site.emq(*worker, "a,,b", status=1)
    assert "Changed client" in site.emq(*worker, "a, c")
    assert ["client", "worker", "a,", "b*", "a,", "c"] == site.emq("keys", "list", "keys").split()[6:12]
    (told,) = json.loads(site.emq("keys", "list", "keys", "--json"))
    assert ("client", "worker", ["a", "b*"], ["a", "c"]) == tuple(
        told[name] for name in ("client", "role", "publish", "take")
    )
    assert 40 == len(told["public_key"])
    assert "a client takes no messages" in site.emq(
        "keys", "permit", "keys", "client", "--take", "a", status=1
    )
    assert "can't name a client" in site.emq("keys", "add-client", "keys", "../x", status=1)
    assert "exists already" in site.emq("keys", "add-client", "keys", "client", status=1)
    assert "lets in no client 'x'" in site.emq("keys", "remove-client", "keys", "x", status=1)
    assert "doesn't exist" in site.emq("keys", "list", "nothere", status=1)
