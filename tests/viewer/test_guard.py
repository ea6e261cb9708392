"""V5: who is let in; V2: what nonsense from a client does; the tunnel stays shut."""

from __future__ import annotations

import http.client
import socket

import pytest
import viser
from viewer_scenes import make_bare_scene, read_image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ltgs.errors import InputError, UsageError
from viewer.app import ViewerApp
from viewer.guard import AccessPolicy, GuardedServer, check_request, find_port

PROTOCOL = [f"viser-v{viser.__version__}"]


def headers(**values):
    table = {k.replace("_", "-").lower(): v if isinstance(v, list) else [v] for k, v in values.items()}
    return lambda name: table.get(name.lower(), [])


LOCAL = AccessPolicy()
OPEN = AccessPolicy("0.0.0.0", "sesame")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9000", "[::1]:8080", "LOCALHOST:8080", "127.0.0.1"])
def test_own_addresses_are_answered(host):
    assert check_request("/", headers(Host=host), LOCAL).allowed
    assert check_request("/", headers(Host=host, Origin=f"http://{host}"), LOCAL).allowed


@pytest.mark.parametrize(
    "host", ["evil.example:8080", "127.0.0.1.evil.example", "localhost.:80", "", "a@127.0.0.1", "127.0.0.1:x", "10.0.0.5:8080"]
)
def test_rebound_or_malformed_hosts_are_refused(host):
    assert not check_request("/", headers(Host=host), LOCAL).allowed


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1.evil.example", "file://", ""]
)
def test_foreign_origins_are_refused(origin):
    decision = check_request("/", headers(Host="127.0.0.1:8080", Origin=origin), LOCAL)
    assert not decision.allowed and "page" in decision.reason


def test_doubled_headers_embedding_and_foreign_scenes_are_refused():
    host = "127.0.0.1:8080"
    assert not check_request("/", headers(Host=[host, host]), LOCAL).allowed
    assert not check_request("/", headers(Host=host, Origin=[f"http://{host}", "http://evil.example"]), LOCAL).allowed
    assert not check_request("/", headers(Host=host, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"), LOCAL).allowed
    assert check_request("/", headers(Host=host, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"), LOCAL).allowed
    for query in ("?websocket=ws://evil.example", "?a=1&playbackPath=//evil.example/x", "?websocket"):
        assert not check_request("/" + query, headers(Host=host), LOCAL).allowed


def test_token_by_address_or_cookie():
    host = "server.example:8080"
    assert not check_request("/", headers(Host=host), OPEN).allowed
    assert not check_request("/?token=wrong", headers(Host=host), OPEN).allowed
    assert not check_request("/?token=", headers(Host=host), OPEN).allowed
    with_token = check_request("/?token=sesame", headers(Host=host), OPEN)
    assert with_token.allowed and with_token.set_cookie
    assert check_request("/", headers(Host=host, Cookie="a=b; ltgs_token_8080=sesame"), OPEN).allowed
    assert not check_request("/", headers(Host=host, Cookie="ltgs_token_9999=sesame"), OPEN).allowed
    assert not check_request("/?token=sesame", headers(Host=host, Origin="http://evil.example"), OPEN).allowed
    assert not check_request("/", headers(Host=host), AccessPolicy(closed=True)).allowed


def test_other_machines_always_need_a_token():
    with pytest.raises(ValueError, match="needs a token"):
        AccessPolicy("0.0.0.0")
    first, second = AccessPolicy.for_host("192.0.2.1"), AccessPolicy.for_host("192.0.2.1")
    assert first.token and len(first.token) >= 32 and first.token != second.token
    assert first.url(8080) == f"http://192.0.2.1:8080/?token={first.token}"
    assert AccessPolicy.for_host("127.0.0.1").token is None


def test_ports_and_hosts_that_cannot_be_used():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        if port < 65500:
            assert find_port("127.0.0.1", port) != port
    with pytest.raises(UsageError, match="between 0 and 65535"):
        find_port("127.0.0.1", 70000)
    with pytest.raises(InputError, match="Use"):
        find_port("192.0.2.77", 8080)


def get(app, path="/", **extra):
    port = app.server.get_port()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=extra)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_live_server_guards_pages_and_sockets(app):
    port = app.server.get_port()
    page, body = get(app)
    assert page.status == 200 and b"<html" in body[:2000].lower()
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert f"ws://127.0.0.1:{port}" in page.headers["Content-Security-Policy"]
    assert get(app, Host="evil.example")[0].status == 403
    assert get(app, Origin="http://evil.example")[0].status == 403
    assert get(app, "/../../etc/passwd")[0].status == 404
    assert get(app, "/%2e%2e/%2e%2e/etc/passwd")[0].status == 404
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}", subprotocols=PROTOCOL, origin="http://evil.example")
    assert refused.value.response.status_code == 403
    with connect(f"ws://127.0.0.1:{port}", subprotocols=PROTOCOL, origin=f"http://127.0.0.1:{port}", max_size=None) as own:
        assert own.recv(timeout=10)


def test_live_token_server():
    app = ViewerApp(make_bare_scene(10), read_image, require_token=True)
    url = app.start()
    try:
        port, token = app.server.get_port(), app.server.policy.token
        assert url.endswith(f"?token={token}")
        assert get(app)[0].status == 403
        page, _ = get(app, f"/?token={token}")
        cookie = page.headers["Set-Cookie"]
        assert page.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{port}", subprotocols=PROTOCOL)
        pair = cookie.split(";")[0]
        with connect(
            f"ws://127.0.0.1:{port}", subprotocols=PROTOCOL, additional_headers={"Cookie": pair}, max_size=None
        ) as own:
            assert own.recv(timeout=10)
    finally:
        app.stop()


def test_nonsense_closes_only_its_own_connection(app, capfd):
    address = f"ws://127.0.0.1:{app.server.get_port()}"
    for message in (b"", b"\xff" * 100, b"\x81\xa4type\xa6Nobody", "text", b"\x80", b"\xc1", b"x" * (2 << 20)):
        with connect(address, subprotocols=PROTOCOL, max_size=None) as bad:
            try:
                bad.send(message)
                for _ in range(50):
                    bad.recv(timeout=5)
            except ConnectionClosed:
                continue
            except TimeoutError:
                continue
    with connect(address, subprotocols=PROTOCOL, max_size=None) as good:
        assert good.recv(timeout=10)
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out


def test_no_tunnel_and_fail_closed(app, monkeypatch):
    assert app.server.request_share_url() is None
    import viewer.guard as guard

    monkeypatch.setattr(guard, "_guard_requests", None)
    import contextlib

    @contextlib.contextmanager
    def nothing_hooked(policy):
        yield []

    monkeypatch.setattr(guard, "_guarded_serving", nothing_hooked)
    with pytest.raises(Exception, match="no longer starts its server"):
        GuardedServer(AccessPolicy(), port=0)
