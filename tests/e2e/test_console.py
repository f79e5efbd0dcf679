"""The console in a real browser, in front of a real authority: as a person meets it the first time."""

from __future__ import annotations

import contextlib
import http.server
import re
import secrets
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import rpz_auth
from axe_playwright_python.sync_playwright import Axe
from orders.v1 import orders_pb2, orders_pb2_grpc
from playwright.sync_api import Browser, Error, Page, expect
from support.authority import CODE_CHALLENGE, CODE_VERIFIER, RESOURCE, AuthorityProcess
from support.browser import Window, running_browser

pytestmark = pytest.mark.timeout(300)  # a browser on a busy machine

PASSWORD = "a few words that nobody puts together"
CREDENTIAL = re.compile(r"rpz[st]_[\w-]{64}")
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    process = AuthorityProcess(tmp_path_factory.mktemp("console") / "data")
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def console(process: AuthorityProcess, browser: Browser) -> str:
    """The address of the console, where the first person has chosen a password."""
    link = re.findall(r"http\S+", (process.data_dir / "first-sign-in.txt").read_text())[0]
    window = Window(browser)
    window.page.goto(link)
    code = link.partition("#")[2]
    assert code not in window.page.url
    window.shot("welcome")
    window.page.get_by_label("New password").fill(PASSWORD)
    window.page.get_by_label("Once more").fill(PASSWORD)
    window.page.get_by_role("button", name="Set the password").click()
    expect(window.page.get_by_role("heading", name="My Apps/Devices")).to_be_visible()
    assert not [url for url in window.asked if code in url]
    window.close()
    return str(link.partition("/welcome")[0])


@pytest.fixture
def window(browser: Browser, console: str) -> Iterator[Window]:
    """Somebody who has signed in."""
    window = Window(browser, permissions=["clipboard-read", "clipboard-write"])
    sign_in(window.page, console)
    yield window
    window.close()


def sign_in(page: Page, console: str) -> None:
    page.goto(f"{console}/sign-in")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="My Apps/Devices")).to_be_visible()


def register(page: Page, console: str, name: str, *, kind: str = "Backend", redirect_uri: str = "") -> str:
    """Register an App by the page for it; return its ID."""
    page.goto(f"{console}/console")
    page.get_by_role("link", name=re.compile("New App|Register the first App")).first.click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("radio", name=re.compile(kind)).check()
    page.get_by_label("Scopes").fill("orders.read\norders.write")
    page.get_by_label("Resources").fill(RESOURCE)
    page.get_by_label("Redirect URIs").fill(redirect_uri)
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    return page.url.split("/apps/")[1].split("/")[0]


def copied(page: Page) -> str:
    """Copy the value that is shown once by its button."""
    page.locator("[data-reveal] [data-copy]").click()
    expect(page.locator("[data-reveal] .copy-word")).to_have_text("Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


@pytest.fixture
def call(process: AuthorityProcess, tmp_path: Path) -> Iterator[Callable[[Any], grpc.StatusCode]]:
    """Call a service that installs the library, and say how it answered."""
    authority = rpz_auth.connect(process.create_verifier(tmp_path / "orders.json"))
    auth = rpz_auth.AuthInterceptor(authority, resource=RESOURCE, services=["orders.v1.OrderService"])
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[auth])
    orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(), server)  # type: ignore[abstract]
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    )
    tls = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)

    def call(credential: Any) -> grpc.StatusCode:
        metadata = (("authorization", str(credential.field_value())),)
        with grpc.secure_channel(f"127.0.0.1:{port}", tls) as channel:
            stub = orders_pb2_grpc.OrderServiceStub(channel)
            try:
                stub.GetOrder(orders_pb2.GetOrderRequest(order_id="7"), metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK

    with auth:
        server.start()
        yield call
        server.stop(None)


def test_new_person_gets_from_nothing_to_a_protected_call(
    process: AuthorityProcess, window: Window, console: str, call: Callable[[Any], grpc.StatusCode]
) -> None:
    page = window.page
    app_id = register(page, console, "Shop backend")
    page.get_by_role("button", name="Create an OAuth 2 secret").click()
    secret = copied(page)
    assert CREDENTIAL.fullmatch(secret)
    page.get_by_role("button", name="Create an API token").click()
    token = copied(page)
    window.shot("shown-once")
    assert CREDENTIAL.fullmatch(token)
    credential = rpz_auth.ApiToken(app_id, token)
    assert call(credential) is grpc.StatusCode.OK

    page.get_by_role("link", name="Whitelist").click()
    entry = page.get_by_label("IP address, network or domain")
    entry.press_sequentially("127.0.0.1/8")
    expect(page.locator(".verdict.bad")).to_be_visible()
    window.shot("whitelist-wrong")
    entry.fill("192.0.2.0/24")
    expect(page.locator(".verdict.good")).to_contain_text("192.0.2.0/24")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    assert call(credential) is grpc.StatusCode.PERMISSION_DENIED
    page.get_by_label("IP address, network or domain").fill("127.0.0.1")
    page.get_by_role("button", name="Add").click()
    expect(page.locator(".entry")).to_have_count(2)
    assert call(credential) is grpc.StatusCode.OK

    page.get_by_role("link", name="API Authorizations").click()
    page.locator(".row", has_text="orders.read").get_by_text("Revoke", exact=True).click()
    page.get_by_role("button", name="Revoke now").locator("visible=true").click()
    expect(page.get_by_role("status").first).to_contain_text("Revoked")
    assert call(credential) is grpc.StatusCode.UNAUTHENTICATED

    # Shown once: in no page since, no address, no storage, no log (A127).
    for tab in ("", "/authorizations", "/whitelist", "/grants", "/audit", "/settings"):
        page.goto(f"{console}/console/apps/{app_id}{tab}")
        assert not CREDENTIAL.search(page.content())
    page.go_back()
    for text in (window.kept(), *window.asked, process.log.read_text()):
        assert secret not in text
        assert token not in text
        assert PASSWORD not in text


def test_value_that_was_shown_is_gone_when_the_page_is_left(window: Window, console: str) -> None:
    page = window.page
    register(page, console, "Gone")
    page.get_by_role("button", name="Create an OAuth 2 secret").click()
    expect(page.locator("#shown")).to_have_text(CREDENTIAL)
    page.get_by_role("link", name="Whitelist").click()
    with contextlib.suppress(Error):  # a page that a form has made is not kept; the browser says so
        page.go_back(timeout=10_000)
    assert not CREDENTIAL.search(source(page))


def source(page: Page) -> str:
    """Of the page that is shown when the browser has done with going from one to the next."""
    while True:
        page.wait_for_load_state()
        with contextlib.suppress(Error):  # it has gone on meanwhile
            return page.content()


class OrderService(orders_pb2_grpc.OrderServiceServicer):
    """A service of somebody's own."""

    def GetOrder(self, request: Any, _context: Any) -> orders_pb2.GetOrderResponse:  # noqa: N802 - the contract's
        order = orders_pb2.Order(order_id=request.order_id, requested_by=rpz_auth.caller().subject)
        return orders_pb2.GetOrderResponse(order=order)


class Callback(http.server.BaseHTTPRequestHandler):
    """The redirect URI of a small client."""

    def do_GET(self) -> None:
        self.server.answers.append(self.path)  # type: ignore[attr-defined] # of the server below
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Shop</title><p>Welcome back to the shop")

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[Any]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Callback)
    server.answers = []  # type: ignore[attr-defined] # what the browser brought
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_r052_person_consents_to_a_client_which_calls_until_it_is_withdrawn(
    process: AuthorityProcess,
    browser: Browser,
    window: Window,
    console: str,
    call: Callable[[Any], grpc.StatusCode],
    shop: Any,
) -> None:
    redirect_uri = f"http://127.0.0.1:{shop.server_port}/callback"
    app_id = register(window.page, console, "Corner shop", kind="Frontend", redirect_uri=redirect_uri)
    state = secrets.token_urlsafe(16)
    query = {
        "response_type": "code",
        "client_id": app_id,
        "redirect_uri": redirect_uri,
        "scope": "orders.read",
        "resource": RESOURCE,
        "state": state,
        "code_challenge": CODE_CHALLENGE,
        "code_challenge_method": "S256",
    }
    place = f"{console}/oauth/authorize?{urllib.parse.urlencode(query)}"

    customer = Window(browser)
    page = customer.page
    page.goto(place)
    expect(page.get_by_text("to go on to Corner shop")).to_be_visible()
    customer.shot("sign-in-for-an-app")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Allow Corner shop?")).to_be_visible()
    assert check_accessible(page) == []
    customer.shot("consent")
    page.get_by_role("button", name="Do not allow").click()
    expect(page.get_by_text("Welcome back to the shop")).to_be_visible()
    page.goto(place)
    page.get_by_role("button", name="Allow", exact=True).click()
    expect(page.get_by_text("Welcome back to the shop")).to_be_visible()

    declined, allowed = (
        dict(urllib.parse.parse_qsl(path.partition("?")[2]))
        for path in shop.answers
        if path.startswith("/callback")
    )
    assert (declined["error"], declined["state"]) == ("access_denied", state)
    assert (allowed["state"], allowed["iss"]) == (state, process.bootstrap["issuer"])
    form = {
        "grant_type": "authorization_code",
        "code": allowed["code"],
        "redirect_uri": redirect_uri,
        "client_id": app_id,
        "code_verifier": CODE_VERIFIER,
    }
    answer = httpx.post(f"{console}/oauth/token", data=form, trust_env=False).json()
    credential = rpz_auth.AccessToken(answer["access_token"])
    assert call(credential) is grpc.StatusCode.OK

    page.goto(f"{console}/console/allowed")
    customer.shot("allowed")
    page.get_by_text("Withdraw", exact=True).click()
    page.get_by_role("button", name="Withdraw now").click()
    expect(page.get_by_role("heading", name="No App acts for you")).to_be_visible()
    assert call(credential) is grpc.StatusCode.UNAUTHENTICATED
    refresh = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"], "client_id": app_id}
    refused = httpx.post(f"{console}/oauth/token", data=refresh, trust_env=False)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    customer.close()


def check_accessible(page: Page) -> list[str]:
    """What axe-core finds that keeps somebody out."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']} {[node['html'][:120] for node in one['nodes']][:3]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_is_open_to_everybody_in_every_light_and_width(
    browser: Browser, console: str, scheme: Any, size: Any
) -> None:
    window = Window(browser, color_scheme=scheme, viewport=size)
    page = window.page
    name = f"{'phone' if size is PHONE else 'desktop'}-{scheme}"
    violations = {}
    page.goto(f"{console}/sign-in")
    window.shot(f"{name}-sign-in")
    violations["sign-in"] = check_accessible(page)
    sign_in(page, console)
    app_id = register(page, console, f"Till in the {scheme}", kind="Device")
    page.get_by_role("button", name="Create an OAuth 2 secret").click()
    page.get_by_role("button", name="Create an API token").click()
    window.shot(f"{name}-shown-once")
    violations["shown-once"] = check_accessible(page)
    own = ["", "/apps/new", "/allowed", "/account", "/people", "/people/new", "/verifiers", "/keys", "/audit"]
    tabs = ["", "/authorizations", "/whitelist", "/grants", "/audit", "/settings"]
    for path in [*own, *(f"/apps/{app_id}{tab}" for tab in tabs)]:
        page.goto(f"{console}/console{path}")
        label = path.replace(app_id, "app").strip("/").replace("/", "-") or "cards"
        violations[label] = check_accessible(page)
        window.shot(f"{name}-{label}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{label} is too wide"
    assert {label: found for label, found in violations.items() if found} == {}
    assert {urllib.parse.urlsplit(url).netloc for url in window.asked} == {
        urllib.parse.urlsplit(console).netloc
    }
    window.close()


def test_keyboard_alone_is_enough(window: Window, console: str) -> None:
    page = window.page
    app_id = register(page, console, "By keyboard")
    page.goto(f"{console}/console/apps/{app_id}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_text("Lock this App").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Lock now")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Lock now")).not_to_be_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("This App is locked")).to_be_visible()


def test_r140_cookies_over_tls_are_the_same(
    process: AuthorityProcess, browser: Browser, console: str
) -> None:
    assert console.startswith("http://127.0.0.1:")
    window = Window(browser, ignore_https_errors=True)
    sign_in(window.page, process.url)
    kept = {cookie["name"]: cookie for cookie in window.context.cookies()}
    session = kept["__Host-rpz-session"]
    assert (session["secure"], session["httpOnly"], session["sameSite"], session["path"]) == (
        True,
        True,
        "Lax",
        "/",
    )
    assert window.page.evaluate("document.cookie") == ""
    window.close()
