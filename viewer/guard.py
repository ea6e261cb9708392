"""Who may talk to the viewer: loopback only unless a token is set, same-origin pages only, no tunnel, no uploads.

viser 1.1.1 itself listens on all interfaces, checks neither Host nor Origin and lets any client open a public tunnel
(measured: a page from another site received the whole scene). It starts its server with one call of
`websockets.asyncio.server.serve` and offers no parameter for a request check, so `GuardedServer` replaces that one
function for the moment in which viser makes the call, and refuses to run if the call did not pass through it: after a
change inside viser the viewer fails closed instead of serving unguarded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import io
import ipaddress
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import viser
import websockets.asyncio.server
import websockets.exceptions
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from ltgs.errors import InputError, MissingDependency, UsageError

log = logging.getLogger("ltgs.viewer")
MAX_MESSAGE_BYTES = 1 << 20
"""The browser sends camera poses and clicks only; viser's own cap is 50 MB."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
FORBIDDEN_QUERY_KEYS = frozenset({"websocket", "playbackPath"})
"""viser's page would load a foreign server or file into our origin when the address carries one of these."""
PORTS_TRIED = 50
_start_lock = threading.Lock()
_transport_log = logging.getLogger("ltgs.viewer.transport")
_transport_log.setLevel(logging.CRITICAL)  # A port scanner's garbage must not print tracebacks on the user's terminal.


@dataclass(frozen=True)
class AccessPolicy:
    """Which requests are answered."""

    host: str = "127.0.0.1"
    """Address the server is bound to."""
    token: str | None = None
    """Secret that must come with the address or as a cookie; None = loopback clients need none."""
    closed: bool = False
    """Refuse every request: used while writing a static page, where nobody should connect."""

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.token is None:
            raise ValueError(f"host {self.host} is reachable from other machines and needs a token.")

    @staticmethod
    def for_host(host: str, *, require_token: bool = False) -> AccessPolicy:
        """The policy for a bind address: a fresh random token unless it is loopback and none was asked for."""
        needs = require_token or not is_loopback(host)
        return AccessPolicy(host, secrets.token_urlsafe(24) if needs else None)

    def url(self, port: int) -> str:
        """The address to open, with the token where one is needed."""
        shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.host, self.host)
        if ":" in shown:
            shown = f"[{shown}]"
        return f"http://{shown}:{port}/" + (f"?token={quote(self.token)}" if self.token else "")


@dataclass(frozen=True)
class Decision:
    """Outcome of `check_request`."""

    allowed: bool
    reason: str = ""
    set_cookie: bool = False


def is_loopback(host: str) -> bool:
    """Whether a bind address is reachable from this machine only."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def _cookie_name(host_header: str) -> str:
    # Cookies are shared by all ports of a host, so two viewers on one machine need different names.
    port = host_header.rsplit(":", 1)[-1] if ":" in host_header.rsplit("]", 1)[-1] else "80"
    return f"ltgs_token_{port}"


def _cookies(header_values: Sequence[str]) -> Mapping[str, str]:
    pairs = (item.strip().partition("=") for value in header_values for item in value.split(";"))
    return {key: value for key, _, value in pairs}


def check_request(path: str, headers: Callable[[str], Sequence[str]], policy: AccessPolicy) -> Decision:
    """Decide about one HTTP or websocket opening request.

    Args:
        path: request target with its query.
        headers: all values of a header by (case-insensitive) name.
        policy: who is let in.

    The order matters only for the message. Host is checked against DNS rebinding, Origin against foreign pages (a
    browser always sends it with a websocket, programs on this machine need not), the query against viser's own
    parameters that would load a foreign server into this origin, and the token last.
    """
    if policy.closed:
        return Decision(False, "This server is not open to visitors.")
    hosts = headers("Host")
    if len(hosts) != 1:
        return Decision(False, "The request must name exactly one host.")
    name = (urlsplit(f"//{hosts[0]}").hostname or "") if _is_authority(hosts[0]) else ""
    if not name:
        return Decision(False, "The host of the request is malformed.")
    if is_loopback(policy.host) and name not in LOOPBACK_NAMES | {policy.host}:
        return Decision(False, "This viewer answers on this machine's own address only. Open the printed address.")
    origins = headers("Origin")
    if origins and [f"{scheme}://{hosts[0]}".lower() for scheme in ("http", "https")].count(origins[0].lower()) == 0:
        return Decision(False, "Another page tried to open this viewer; only its own page may.")
    if len(origins) > 1:
        return Decision(False, "The request names more than one origin.")
    site, mode = headers("Sec-Fetch-Site"), headers("Sec-Fetch-Mode")
    if site and site[0] == "cross-site" and (not mode or mode[0] != "navigate"):
        return Decision(False, "Another site tried to embed this viewer.")
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if FORBIDDEN_QUERY_KEYS & set(query):
        return Decision(False, "This address would load a foreign scene into the viewer. Open the printed address.")
    if policy.token is None:
        return Decision(True)
    if hmac.compare_digest(query.get("token", [""])[0].encode(), policy.token.encode()):
        return Decision(True, set_cookie=True)
    cookie = _cookies(headers("Cookie")).get(_cookie_name(hosts[0]), "")
    if hmac.compare_digest(cookie.encode(), policy.token.encode()):
        return Decision(True)
    return Decision(False, "Open the address printed in the terminal; it carries the token that this viewer asks for.")


def _is_authority(value: str) -> bool:
    try:
        parts = urlsplit(f"//{value}")
        return parts.netloc == value and "@" not in value and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _security_headers(host: str) -> dict[str, str]:
    # viser's page is one file with inline scripts, workers from blobs and WebAssembly; nothing may leave for another host.
    policy = (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; "
        f"connect-src 'self' blob: data: ws://{host} wss://{host}; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"
    )
    return {
        "Content-Security-Policy": policy, "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
    }


def _guard_requests(policy: AccessPolicy, inner: Callable[[ServerConnection, Request], Response | None]) -> Callable:
    def process_request(connection: ServerConnection, request: Request) -> Response | None:
        decision = check_request(request.path, request.headers.get_all, policy)
        if not decision.allowed:
            log.info("Refused a request: %s", decision.reason)
            response = connection.respond(http.HTTPStatus.FORBIDDEN, decision.reason + "\n")
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response
        answer = inner(connection, request)
        if answer is not None:
            host = request.headers.get_all("Host")[0]
            for key, value in _security_headers(host).items():
                answer.headers[key] = value
            if decision.set_cookie:
                cookie = f"{_cookie_name(host)}={policy.token}; HttpOnly; SameSite=Strict; Path=/"
                answer.headers["Set-Cookie"] = cookie
        return answer

    return process_request


def _guard_handler(handler: Callable) -> Callable:
    async def guarded(connection: ServerConnection) -> None:
        try:
            await handler(connection)
        except websockets.exceptions.ConnectionClosed:
            pass  # The visitor left; viser has cleaned up by now.
        except Exception as error:
            # Whatever a client sends, only its own connection may suffer, without a traceback on the terminal.
            log.info("Closed a connection after a message that is not the viewer's (%s).", type(error).__name__)
            await connection.close(1007, "not a viewer message")

    return guarded


@contextlib.contextmanager
def _guarded_serving(policy: AccessPolicy) -> Iterator[list[bool]]:
    """While open, servers that viser starts get the request check; yields a list that is non-empty once one did."""
    module, hooked = websockets.asyncio.server, []
    original = module.serve

    def serve(handler: Callable, *args: Any, **kwargs: Any) -> Any:
        if not str(getattr(handler, "__module__", "")).startswith("viser."):
            return original(handler, *args, **kwargs)
        hooked.append(True)
        kwargs.update(
            process_request=_guard_requests(policy, kwargs.get("process_request") or (lambda *_: None)),
            max_size=MAX_MESSAGE_BYTES, logger=_transport_log,
        )
        return original(_guard_handler(handler), *args, **kwargs)

    module.serve = serve  # type: ignore[assignment, misc]
    try:
        yield hooked
    finally:
        module.serve = original  # type: ignore[misc]


def find_port(host: str, port: int) -> int:
    """The first free port from `port` on (0 = any).

    viser would search for itself but hangs forever when the address cannot be bound at all, so it is tried out first.

    Raises:
        UsageError: the port number is out of range.
        InputError: the address does not belong to this machine, or all ports tried are busy.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port must be between 0 and 65535, got {port}.")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"host {plain_host(host)} is not known ({error}). Use 127.0.0.1.") from error
    last = port if port == 0 else min(port + PORTS_TRIED, 65535)
    problem: OSError | None = None
    for candidate in range(port, last + 1):
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate))
                probe.listen(1)
                return int(probe.getsockname()[1])
            except OSError as error:
                problem = error
    reason = f"cannot listen on {plain_host(host)} from port {port} to {last} ({problem})"
    raise InputError(f"{reason}. Use an address of this machine (127.0.0.1) and another --port.")


def plain_host(host: str) -> str:
    """The host as shown in a message."""
    return "".join(c for c in host[:80] if c.isprintable())


class GuardedServer(viser.ViserServer):
    """A viser server behind an `AccessPolicy`, silent on the terminal, without the public tunnel."""

    def __init__(self, policy: AccessPolicy, port: int = 8080, label: str | None = None) -> None:
        free = find_port(policy.host, port)
        # viser prints its own address panel, which lacks the token; ours is the only one that should appear.
        with _start_lock, _guarded_serving(policy) as hooked, contextlib.redirect_stdout(io.StringIO()):
            super().__init__(host=policy.host, port=free, label=label, verbose=False)
            if not hooked:
                super().stop()
                raise MissingDependency(
                    f"viser {viser.__version__} no longer starts its server the way this viewer guards it. "
                    "Install the version pinned by this project (viser>=1.1.1,<1.2)."
                )
        self.policy = policy
        loop = self.get_event_loop()
        loop.call_soon_threadsafe(loop.set_exception_handler, _quiet_exception)

    @property
    def url(self) -> str:
        """The address that works, token included."""
        return self.policy.url(self.get_port())

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refused: any connected client can ask for it, and it would put a private place on a public server."""
        log.warning("A client asked for a public share link; this viewer never opens one.")
        return None

    def stop(self) -> None:
        """Stop serving; safe to call twice."""
        if getattr(self, "_stopped", False):
            return
        self._stopped = True
        with contextlib.redirect_stdout(io.StringIO()):
            super().stop()


def _quiet_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.info("A message of a client could not be handled: %s", type(error).__name__ if error else context["message"])
