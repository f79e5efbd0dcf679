from __future__ import annotations

import asyncio
import base64
import urllib.parse
from pathlib import Path
from typing import Any

import grpc
import pytest
import rpz_auth
from orders.v1 import orders_pb2, orders_pb2_grpc
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth.errors import Reason
from rpz_auth_server.storage.store import Commit
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    OTHER_VERIFIER,
    REDIRECT_URI,
    STOCK,
    Client,
    TestAuthority,
    basic,
    bearer,
    challenge_of,
    outcome,
    read_refusal,
    refusal,
    running_authority,
)


async def test_r007_answer_has_what_rfc_6749_demands(authority: TestAuthority) -> None:
    client = await authority.create_client()
    answer = await authority.sign_in(client)
    assert (answer.token_type, answer.expires_in, list(answer.scopes)) == ("Bearer", 7200, ["orders.read"])
    assert answer.refresh_token.startswith("rpzr_")
    assert await authority.is_alive(answer.access_token)
    await authority.advance(7199)
    assert await authority.is_alive(answer.access_token)
    await authority.advance(1)
    assert not await authority.is_alive(answer.access_token)


@pytest.mark.parametrize("header", ["authorization", "x-rpz-auth"])
@pytest.mark.parametrize("repeat_id", [False, True])
async def test_client_authenticates_in_the_metadata(
    authority: TestAuthority, header: str, *, repeat_id: bool
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    body = {"client_id": client.app_id if repeat_id else "", "client_secret": ""}
    metadata = basic(client.app_id, client.secret, header)
    assert (await authority.exchange(client, code, metadata=metadata, **body)).access_token


async def test_client_in_x_rpz_auth_leaves_authorization_to_others(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    metadata = (
        *basic(client.app_id, client.secret, "x-rpz-auth"),
        ("authorization", "Digest whatever"),
        *bearer("x"),
    )
    answer = await authority.exchange(client, code, metadata=metadata, client_id="", client_secret="")
    assert answer.access_token


async def test_r011_credentials_in_metadata_and_message_are_ambiguous(authority: TestAuthority) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    code = await authority.issue_code(client)
    metadata = basic(client.app_id, client.secret)
    for body in (
        client.body,
        {"client_id": "", "client_secret": client.secret},
        {"client_id": client.app_id, "client_secret": "wrong"},
        {"client_id": other.app_id, "client_secret": ""},
    ):
        found = await refusal(authority.exchange(client, code, metadata=metadata, **body))
        assert found == Reason.CREDENTIALS_AMBIGUOUS
    twice = (*metadata, *metadata)
    found = await refusal(authority.exchange(client, code, metadata=twice, client_id="", client_secret=""))
    assert found == Reason.CREDENTIALS_AMBIGUOUS
    assert (await authority.exchange(client, code)).access_token


async def test_r013_percent_encoded_basic_is_decoded(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)

    def escape(text: str) -> str:
        return "".join(f"%{ord(letter):02X}" for letter in text)

    for app_id, secret in (
        (escape(client.app_id), escape(client.secret)),
        (urllib.parse.quote_plus(client.app_id), urllib.parse.quote_plus(client.secret)),
    ):
        metadata = basic(app_id, secret)
        found = await outcome(
            authority.exchange(
                client, code, metadata=metadata, client_id="", client_secret="", code_verifier="w" * 43
            )
        )
        assert found == Reason.GRANT_INVALID  # so the client was known
    other = basic(escape(client.app_id), escape(client.secret[:-1]))
    found = await refusal(authority.exchange(client, code, metadata=other, client_id="", client_secret=""))
    assert found == Reason.CLIENT_INVALID


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    "value",
    [
        "Basic",
        "Basic ",
        "Basic  ",
        "Basic !",
        "Basic " + _b64(b"no-colon"),
        "Basic " + _b64(b":"),
        "Basic " + _b64(b"user:"),
        "Basic " + _b64(b":password"),
        "Basic " + _b64(b"\xff\xfe:\xff"),
        "Basic " + _b64(b"user:pass:word"),
        "Basic " + _b64(b"user:\x00"),
        "Basic " + _b64(b"%ff%fe:%00%zz%"),
        "Basic " + _b64(b"user:password").rstrip("="),
        "Basic " + _b64(b"user:password") + "=",
        "Basic a b",
        "Bearer x",
        "Bearer rpzs_" + "A" * 64,
        "Digest username=x",
        "Negotiate abc",
        "rpzs_" + "A" * 64,
        "Basic " + "A" * 8188,
    ],
)
@pytest.mark.parametrize("header", ["authorization", "x-rpz-auth"])
async def test_r009_r014_garbage_in_the_metadata_is_no_client(
    authority: TestAuthority, header: str, value: str
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    try:
        await authority.exchange(client, code, metadata=((header, value),), client_id="", client_secret="")
    except grpc.aio.AioRpcError as error:
        found = read_refusal(error)
        if len(value) > 8000 and found.reason is None:
            # grpc refuses metadata over 8 KiB at random, before anybody of ours sees it.
            assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        else:
            assert found == Reason.CLIENT_INVALID
    else:
        pytest.fail("was not refused")


async def test_r010_unknown_client_and_wrong_secret_get_the_same_answer(authority: TestAuthority) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    public = await authority.create_public_client()
    locked, deleted = await authority.create_client(), await authority.create_client()
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=locked.app_id))
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=deleted.app_id))
    code = await authority.issue_code(client)
    forged = client.secret[:-1] + ("A" if client.secret[-1] != "A" else "B")
    attempts = [
        (client.app_id, ""),
        (client.app_id, "wrong"),
        (client.app_id, forged),
        (client.app_id, other.secret),
        (client.app_id, "rpzt_" + client.secret[5:]),
        (client.app_id, client.secret + " "),
        ("00000000-0000-4000-8000-000000000000", client.secret),
        ("00000000-0000-4000-8000-000000000000", "wrong"),
        ("00000000-0000-4000-8000-000000000000", ""),
        ("nonsense", client.secret),
        ("", client.secret),
        ("", ""),
        (client.app_id.upper(), client.secret),
        (client.app_id + "\n", client.secret),
        (public.app_id, client.secret),
        (public.app_id, "wrong"),
        (locked.app_id, locked.secret),
        (deleted.app_id, deleted.secret),
    ]
    answers = [
        await refusal(authority.exchange(client, code, client_id=app_id, client_secret=secret))
        for app_id, secret in attempts
    ]
    assert answers[0] == Reason.CLIENT_INVALID
    assert all(answer == answers[0] for answer in answers)
    assert (await authority.exchange(client, code)).access_token


async def test_r015_a16_backend_that_forgets_its_secret_is_no_client(authority: TestAuthority) -> None:
    client = await authority.create_client()
    without = Client((await authority.create_app()).app_id)
    for backend in (client, without):
        code = await authority.issue_code(backend)
        assert await refusal(authority.exchange(backend, code, client_secret="")) == Reason.CLIENT_INVALID


async def test_a16_device_with_a_secret_must_give_it(authority: TestAuthority) -> None:
    app = await authority.create_app(kind=app_pb.APP_KIND_DEVICE)
    device = Client(app.app_id)
    assert (await authority.sign_in(device)).access_token
    secret = await authority.create_secret(app.app_id)
    code = await authority.issue_code(device)
    assert await refusal(authority.exchange(device, code)) == Reason.CLIENT_INVALID
    assert (await authority.exchange(device, code, client_secret=secret)).access_token


async def test_public_app_redeems_with_pkce_alone(authority: TestAuthority) -> None:
    client = await authority.create_public_client()
    code = await authority.issue_code(client)
    assert await refusal(authority.exchange(client, code, code_verifier="")) == Reason.GRANT_INVALID
    assert (await authority.exchange(client, code)).access_token


async def test_r023_a16_code_of_another_app_is_refused_and_stays_good(authority: TestAuthority) -> None:
    owner, thief = await authority.create_client(), await authority.create_client()
    public = await authority.create_public_client()
    code = await authority.issue_code(owner)
    for other in (thief, public):
        assert await refusal(authority.exchange(other, code)) == Reason.GRANT_INVALID
    answer = await authority.exchange(owner, code)
    for other in (thief, public):
        assert await refusal(authority.exchange(other, code)) == Reason.GRANT_INVALID
    assert await authority.is_alive(answer.access_token)


async def test_r020_a01_second_valid_redemption_revokes_everything(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    first = await authority.exchange(client, code)
    second = await authority.refresh(client, first.refresh_token)
    assert await authority.is_alive(first.access_token)
    assert await refusal(authority.exchange(client, code)) == Reason.GRANT_INVALID
    assert not await authority.is_alive(first.access_token)
    assert not await authority.is_alive(second.access_token)
    assert await refusal(authority.refresh(client, second.refresh_token)) == Reason.GRANT_INVALID
    (reuse,) = [record.audit for record in await authority.audit() if record.audit.action == "grant.reuse"]
    assert (reuse.app_id, reuse.actor, reuse.peer) == (client.app_id, f"app:{client.app_id}", "127.0.0.1")


async def test_replayed_code_of_a_revoked_grant_writes_nothing_new(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    await authority.exchange(client, code)
    await refusal(authority.exchange(client, code))
    audit, cursor = await authority.audit(), await authority.store.cursor()
    for _ in range(3):
        assert await refusal(authority.exchange(client, code)) == Reason.GRANT_INVALID
    assert (await authority.audit(), await authority.store.cursor()) == (audit, cursor)


@pytest.mark.parametrize(
    "fields",
    [
        {"code_verifier": OTHER_VERIFIER},
        {"code_verifier": ""},
        {"code_verifier": challenge_of(CODE_VERIFIER)},
        {"code_verifier": CODE_VERIFIER + "="},
        {"redirect_uri": ""},
        {"redirect_uri": REDIRECT_URI + "/"},
        {"redirect_uri": "https://shop.example/other"},
    ],
)
async def test_r021_r027_r029_a02_a06_a15_wrong_request_neither_redeems_nor_revokes(
    authority: TestAuthority, fields: dict[str, Any]
) -> None:
    client = await authority.create_client(redirect_uris=[REDIRECT_URI, "https://shop.example/other"])
    code = await authority.issue_code(client)
    assert await refusal(authority.exchange(client, code, **fields)) == Reason.GRANT_INVALID
    answer = await authority.exchange(client, code)
    assert await refusal(authority.exchange(client, code, **fields)) == Reason.GRANT_INVALID
    assert await authority.is_alive(answer.access_token)


async def test_a03_codes_of_two_flows_cannot_be_swapped(authority: TestAuthority) -> None:
    client = await authority.create_client()
    mine = await authority.issue_code(client)
    other = await authority.issue_code(client, code_challenge=challenge_of(OTHER_VERIFIER))
    assert await refusal(authority.exchange(client, other)) == Reason.GRANT_INVALID
    swapped = authority.exchange(client, mine, code_verifier=OTHER_VERIFIER)
    assert await refusal(swapped) == Reason.GRANT_INVALID


async def test_r028_a04_verifier_for_a_code_without_challenge_is_a_downgrade(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client(pkce_exempt=True)
    code = await authority.issue_code(client, code_challenge="", code_challenge_method="")
    assert await refusal(authority.exchange(client, code)) == Reason.REQUEST_INVALID


async def test_r022_code_expires_after_sixty_seconds(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first, second = await authority.issue_code(client), await authority.issue_code(client)
    await authority.advance(59.9)
    assert (await authority.exchange(client, first)).access_token
    await authority.advance(0.1)
    assert await refusal(authority.exchange(client, second)) == Reason.GRANT_INVALID


async def test_one_answer_for_every_bad_code(authority: TestAuthority) -> None:
    client = await authority.create_client()
    used, revoked, old = [await authority.issue_code(client) for _ in range(3)]
    tokens = await authority.exchange(client, used)
    first = await authority.exchange(client, revoked)
    await authority.refresh(client, first.refresh_token)
    await refusal(authority.exchange(client, revoked))
    await authority.advance(60)
    other = await authority.issue_code(await authority.create_client())
    bad = [
        "",
        "nonsense",
        "rpzc_" + "A" * 64,
        used[:-1] + ("A" if used[-1] != "A" else "B"),
        used + " ",
        "rpzr_" + used[5:],
        tokens.refresh_token,
        tokens.access_token,
        client.secret,
        revoked,
        old,
        other,
    ]
    answers = [await refusal(authority.exchange(client, code)) for code in bad]
    assert answers[0] == Reason.GRANT_INVALID
    assert all(answer == answers[0] for answer in answers)


async def test_r030_simultaneous_redemptions_have_one_winner_and_leave_nothing_alive(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    answers = await asyncio.gather(*(outcome(authority.exchange(client, code)) for _ in range(16)))
    (winner,) = [answer for answer in answers if answer != Reason.GRANT_INVALID]
    assert not await authority.is_alive(winner.access_token)
    assert await refusal(authority.refresh(client, winner.refresh_token)) == Reason.GRANT_INVALID


async def test_r209_one_of_several_resources_must_be_named(authority: TestAuthority) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    code = await authority.issue_code(client, resources=[ORDERS, STOCK])
    for resource in ("", "https://other.example", ORDERS + "/"):
        found = await refusal(authority.exchange(client, code, resource=resource))
        assert found == Reason.TARGET_INVALID
    answer = await authority.exchange(client, code, resource=STOCK)
    assert await authority.is_alive(answer.access_token, STOCK)
    assert not await authority.is_alive(answer.access_token, ORDERS)


async def test_r209_resource_that_was_not_granted_is_refused(authority: TestAuthority) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    code = await authority.issue_code(client, resources=[ORDERS])
    assert await refusal(authority.exchange(client, code, resource=STOCK)) == Reason.TARGET_INVALID
    assert await authority.is_alive((await authority.exchange(client, code)).access_token, ORDERS)


async def test_r020_replay_with_a_bad_resource_is_replay_all_the_same(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    answer = await authority.exchange(client, code)
    assert await refusal(authority.exchange(client, code, resource="https://x")) == Reason.GRANT_INVALID
    assert not await authority.is_alive(answer.access_token)


async def test_bad_resource_on_a_bad_code_tells_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    found = authority.exchange(client, code, resource="https://x", code_verifier=OTHER_VERIFIER)
    assert await refusal(found) == Reason.GRANT_INVALID


async def test_what_was_taken_from_the_app_since_is_not_granted(authority: TestAuthority) -> None:
    client = await authority.create_client(scopes=["orders.read", "orders.write"])
    code = await authority.issue_code(client, scopes=["orders.read", "orders.write"])
    await authority.update_app(client.app_id, scopes=["orders.read"])
    assert list((await authority.exchange(client, code)).scopes) == ["orders.read"]
    nothing = await authority.issue_code(client)
    await authority.update_app(client.app_id, scopes=["orders.other"])
    assert await refusal(authority.exchange(client, nothing)) == Reason.SCOPE_INVALID
    await authority.update_app(client.app_id, scopes=["orders.read"], resources=[STOCK])
    assert await refusal(authority.exchange(client, nothing)) == Reason.TARGET_INVALID
    await authority.update_app(client.app_id, resources=[ORDERS])
    assert (await authority.exchange(client, nothing)).access_token


async def test_locked_or_deleted_app_redeems_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))
    assert await refusal(authority.exchange(client, code)) == Reason.CLIENT_INVALID
    await authority.admin.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=client.app_id))
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=client.app_id))
    assert await refusal(authority.exchange(client, code)) == Reason.CLIENT_INVALID


async def test_r092_whitelist_holds_at_the_token_endpoint_after_authentication(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client(whitelist=["192.0.2.0/24"])
    code = await authority.issue_code(client)
    found = await refusal(authority.exchange(client, code))
    assert found == Reason.ORIGIN_NOT_ALLOWED
    assert "192.0.2" not in found.text + repr(found.metadata)
    wrong = authority.exchange(client, code, client_secret="wrong")
    assert await refusal(wrong) == Reason.CLIENT_INVALID
    await authority.update_app(client.app_id, whitelist=["127.0.0.1"])
    assert (await authority.exchange(client, code)).access_token


async def test_lock_during_a_redemption_leaves_no_usable_access_token(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)

    async def lock_first(*_: Any) -> None:
        authority.store.before.clear()
        await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))
        await authority.admin.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=client.app_id))

    authority.store.before["commit"] = lock_first
    answer = await authority.exchange(client, code)
    assert not await authority.is_alive(answer.access_token)
    renewed = await authority.refresh(client, answer.refresh_token)
    assert await authority.is_alive(renewed.access_token)


async def test_what_cannot_be_signed_consumes_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    signing = authority.authority.signing
    records = await authority.store.inner.signing_keys()
    signing.replace([])
    assert await refusal(authority.exchange(client, code)) == Reason.BACKEND_UNAVAILABLE
    signing.replace(records)
    assert await authority.is_alive((await authority.exchange(client, code)).access_token)


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def GetOrder(self, request: Any, _context: Any) -> Any:  # noqa: N802 - named by the contract
        order = orders_pb2.Order(order_id=request.order_id, requested_by=rpz_auth.caller().subject)
        return orders_pb2.GetOrderResponse(order=order)


async def test_r020_r077_a01_replay_reaches_a_service_that_verifies_by_itself(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "authority") as authority:
        connection = rpz_auth.connect(await authority.verifier_file(tmp_path / "orders.json"))
        auth = rpz_auth.AuthInterceptor(connection, resource=ORDERS, services=["orders.v1.OrderService"])
        server = grpc.aio.server(interceptors=[auth])
        orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)  # type: ignore[abstract] # one method is enough
        port = server.add_insecure_port("127.0.0.1:0")
        client = await authority.create_client()
        code = await authority.issue_code(client)
        tokens = await authority.exchange(client, code)
        async with auth, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await server.start()
            stub: Any = orders_pb2_grpc.OrderServiceStub(channel)

            async def call() -> Any:
                request = orders_pb2.GetOrderRequest(order_id="7")
                return await stub.GetOrder(request, metadata=bearer(tokens.access_token))

            assert (await call()).order.requested_by == "user:1"
            assert await refusal(authority.exchange(client, code)) == Reason.GRANT_INVALID
            loop = asyncio.get_running_loop()
            deadline = loop.time() + 2  # on a busy machine; the bound itself is measured elsewhere
            while (answer := await outcome(call())) != Reason.TOKEN_INVALID:
                assert loop.time() < deadline, answer
            await server.stop(None)


async def test_redeeming_is_routine_and_the_grant_says_which_sign_in_service_issued_its_code(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    sign_in_id, stubs = await authority.app_with(
        "rpz.codes.issue", sign_in=app_pb.SignIn(client_ids=[client.app_id], subject_prefix="user:")
    )
    code = await authority.issue_code(client, as_=stubs)
    recorded, commits = await authority.audit(), []

    async def note(commit: Commit) -> None:
        commits.append(commit)

    authority.store.before["commit"] = note
    tokens = await authority.exchange(client, code)
    assert await _issuers(authority, client) == [f"app:{sign_in_id}"]
    await authority.refresh(client, tokens.refresh_token)
    assert await _issuers(authority, client) == [f"app:{sign_in_id}"]
    # One row each and nothing beside it, which is one statement.
    assert commits == [Commit(rows=(grant,)) for commit in commits for grant in commit.rows]
    assert len(commits) == 2
    assert await authority.audit() == recorded


async def _issuers(authority: TestAuthority, client: Client) -> list[str]:
    request = token_pb.ListGrantsRequest(client_id=client.app_id)
    return [grant.issued_by for grant in (await authority.admin.tokens.ListGrants(request)).grants]
