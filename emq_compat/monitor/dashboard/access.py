"""Who may look and act: the Host header, a token, sessions, and what keeps other pages' requests out.

On a loopback address without a token whoever reaches it may: its pages must then be asked for under a name of
this machine (so that no foreign name that was made to point here gets in). With a token, a browser logs in
and has a cookie; what changes something also needs the session's second secret, which only our page can read.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from emq_compat.errors import ConfigurationError

__all__ = ["COOKIE", "Access", "Refused", "Session", "is_loopback"]

COOKIE = "emq_dashboard"
_SESSION_S = 12 * 3600.0
_SESSIONS = 1000
#: So many wrong tokens a minute; then nobody is let in for the rest of it.
_TRIES = 20
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Refused(Exception):
    """A request is refused; ``status`` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser that is let in.

    Attributes:
        name: for the log.
        secret: what it says with what changes something.
    """

    name: str
    secret: str


class Access:
    """The rules of one dashboard.

    Args:
        host: the address that it listens at.
        token: opens it; empty: it is open, which only a loopback address may be.
        names: further names under which it may be asked for.

    Raises:
        ConfigurationError: it would be open to the network, or the token is short.
    """

    def __init__(self, host: str, token: str, names: tuple[str, ...] = ()) -> None:
        if not token and not is_loopback(host):
            raise ConfigurationError(
                f"the dashboard would be open to whoever reaches {host}: give it a token (--token-file FILE, "
                "or EMQ_DASHBOARD_TOKEN), or have it listen at 127.0.0.1"
            )
        if token and len(token) < 16:
            raise ConfigurationError(
                "the dashboard's token has less than 16 characters: "
                "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        self._token = token
        self._checks_names = is_loopback(host) or bool(names)
        self._names = _OWN_NAMES | {name.lower() for name in names}
        self._open = Session(name="local", secret=secrets.token_urlsafe())
        self._sessions: dict[str, tuple[Session, float]] = {}
        self._wrong: list[float] = []

    @property
    def needs_token(self) -> bool:
        """Whether a browser must log in."""
        return bool(self._token)

    def check_host(self, host: str) -> None:
        """Refuse a request whose Host header is none of our names."""
        if self._checks_names and _name(host) not in self._names:
            raise Refused(
                421, f"this dashboard is not known as {host!r:.100}: --allow-host lets it be asked for so"
            )

    def session(self, cookie: str | None) -> Session | None:
        """Return the session that a cookie belongs to; None: it must log in."""
        if not self._token:
            return self._open
        found = self._sessions.get(cookie or "")
        if found is None or found[1] < time.monotonic():
            return None
        return found[0]

    def log_in(self, token: str) -> str:
        """Return the cookie of a new session.

        Raises:
            Refused: the token is wrong, or too many were.
        """
        now = time.monotonic()
        self._wrong = [at for at in self._wrong if now - at < 60.0]
        if len(self._wrong) >= _TRIES:
            raise Refused(429, "Too many wrong tokens: try again in a minute.")
        # JSON may hold what UTF-8 can't.
        given = token.strip().encode("utf-8", "surrogatepass")
        if not self._token or not hmac.compare_digest(given, self._token.encode()):
            self._wrong.append(now)
            raise Refused(403, "This is not the token.")
        self._sessions = {key: one for key, one in self._sessions.items() if one[1] >= now}
        while len(self._sessions) >= _SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe()
        session = Session(name=f"session {secrets.token_hex(3)}", secret=secrets.token_urlsafe())
        self._sessions[cookie] = session, now + _SESSION_S
        return cookie

    def log_out(self, cookie: str | None) -> None:
        """End a session."""
        self._sessions.pop(cookie or "", None)

    @staticmethod
    def check_site(headers: Mapping[str, str]) -> None:
        """Refuse what another site's page has a browser ask; it couldn't read the answer anyway."""
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "another site asks this")

    @staticmethod
    def check_origin(headers: Mapping[str, str]) -> None:
        """Refuse what another site's page has sent."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin"):
            raise Refused(403, "another site has sent this")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise Refused(403, f"{origin!r:.100} has sent this")

    @staticmethod
    def check_secret(session: Session, given: str | None) -> None:
        """Refuse what doesn't come with the session's secret."""
        if not hmac.compare_digest((given or "").encode(), session.secret.encode()):
            raise Refused(403, "the page is older than the dashboard: load it again")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens at this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
