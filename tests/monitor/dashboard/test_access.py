"""Who may look and act: addresses, names, tokens, sessions, and requests of other pages."""

from __future__ import annotations

import time

import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.monitor.dashboard.access import Access, Refused, is_loopback

pytestmark = pytest.mark.unit

TOKEN = "t0ken-of-sixteen-or-more"


def test_another_address_needs_a_token() -> None:
    """Without one it doesn't start, and says what to do; a short one is no token."""
    with pytest.raises(ConfigurationError, match="--token-file FILE, or EMQ_DASHBOARD_TOKEN"):
        Access("0.0.0.0", "")
    with pytest.raises(ConfigurationError, match="less than 16"):
        Access("127.0.0.1", "short")
    assert Access("0.0.0.0", TOKEN).needs_token
    assert not Access("127.0.0.1", "").needs_token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """Addresses of this machine alone."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example.org"])
def test_not_loopback(host: str) -> None:
    """Everything else may be reached from elsewhere, names included."""
    assert not is_loopback(host)


def test_only_own_names_are_answered() -> None:
    """A name that was made to point to this machine is refused; one that was allowed isn't."""
    access = Access("127.0.0.1", "", ("Jobs.example.org",))
    for host in ("127.0.0.1:8420", "localhost", "[::1]:8420", "LOCALHOST:1", "jobs.example.org"):
        access.check_host(host)
    for host in ("evil.example:8420", "", "127.0.0.1.evil.example", "[::2]", "localhost.evil.example"):
        with pytest.raises(Refused):
            access.check_host(host)


def test_names_count_at_other_addresses_once_they_are_given() -> None:
    """Behind a token any name will do; where some are allowed, no other."""
    Access("0.0.0.0", TOKEN).check_host("anything.example")
    access = Access("0.0.0.0", TOKEN, ("jobs.example.org",))
    access.check_host("jobs.example.org:8420")
    with pytest.raises(Refused):
        access.check_host("anything.example")


def test_a_token_becomes_a_session() -> None:
    """The right token opens a session that ends by logging out; nothing else does."""
    access = Access("127.0.0.1", TOKEN)
    assert access.session(None) is None
    assert access.session("made up") is None
    cookie = access.log_in(TOKEN)
    session = access.session(cookie)
    assert session is not None
    assert access.session(access.log_in(TOKEN)) != session
    access.log_out(cookie)
    assert access.session(cookie) is None


def test_a_session_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """After twelve hours the token is asked for again."""
    access = Access("127.0.0.1", TOKEN)
    cookie = access.log_in(TOKEN)
    later = time.monotonic() + 12 * 3600 + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert access.session(cookie) is None


def test_guessing_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 20 wrong tokens in a minute even the right one is refused, for the rest of it."""
    access = Access("127.0.0.1", TOKEN)
    for _ in range(20):
        with pytest.raises(Refused) as refused:
            access.log_in("wrong")
        assert 403 == refused.value.status
    with pytest.raises(Refused) as refused:
        access.log_in(TOKEN)
    assert 429 == refused.value.status
    later = time.monotonic() + 61.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert access.session(access.log_in(TOKEN)) is not None


def test_without_a_token_nobody_logs_in() -> None:
    """An empty token opens nothing."""
    with pytest.raises(Refused):
        Access("127.0.0.1", "").log_in("")


def test_sessions_are_bounded() -> None:
    """A thousand sessions; then the oldest goes."""
    access = Access("127.0.0.1", TOKEN)
    first = access.log_in(TOKEN)
    for _ in range(1000):
        last = access.log_in(TOKEN)
    assert access.session(first) is None
    assert access.session(last) is not None


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "host": "a"},
        {"sec-fetch-site": "same-site", "host": "a"},
        {"origin": "http://evil.example", "host": "a"},
        {"origin": "null", "host": "a"},
    ],
)
def test_what_another_page_sends_is_refused(headers: dict[str, str]) -> None:
    """Another site's page, or one of the same site, changes nothing."""
    with pytest.raises(Refused):
        Access.check_origin(headers)


def test_what_our_page_sends_is_taken() -> None:
    """Our own page, and clients that are no browsers."""
    Access.check_origin({"sec-fetch-site": "same-origin", "origin": "http://a:1", "host": "a:1"})
    Access.check_origin({"host": "a:1"})


def test_the_secret_is_the_sessions() -> None:
    """A secret of another session, or none, is refused."""
    access = Access("127.0.0.1", "")
    session = access.session(None)
    assert session is not None
    Access.check_secret(session, session.secret)
    for wrong in (None, "", "wrong", "ä"):
        with pytest.raises(Refused):
            Access.check_secret(session, wrong)
