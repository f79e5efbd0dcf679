"""Answers that must not be told apart come of the same work, so that no clock tells them apart either.

What a call asks the database for is compared, not its time, which says little on a busy machine.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from rpz.auth.v1 import app_service_pb2, token_service_pb2
from rpz_auth.errors import Reason
from server.authority import ORDERS, Client, Stubs, TestAuthority, basic, refusal

MISSING = "00000000-0000-4000-8000-000000000000"
FORGED = "A" * 64
NAME = FieldMask(paths=["display_name"])


async def work(authority: TestAuthority, call: Awaitable[Any], reason: Reason) -> list[str]:
    """What a refused call asked for."""
    authority.store.calls.clear()
    assert await refusal(call) == reason
    return authority.asked()


async def test_r010_a121_unknown_client_and_wrong_secret_take_the_same_work(authority: TestAuthority) -> None:
    known = (await authority.create_client()).app_id
    for wrong in ("", "x", f"rpzs_{FORGED}"):
        works = [
            await work(
                authority, authority.refresh(Client(name, wrong), f"rpzr_{FORGED}"), Reason.GRANT_INVALID
            )
            for name in (known, MISSING)
        ]
        assert works == [[], []], wrong
    requests = [
        token_service_pb2.RevokeTokenRequest(token="x", client_id=name, client_secret=f"rpzs_{FORGED}")
        for name in (known, MISSING, "nonsense")
    ]
    for request in requests:
        call = authority.anonymous.tokens.RevokeToken(request)
        assert await work(authority, call, Reason.CLIENT_INVALID) == []


async def test_r091_a121_unknown_id_and_wrong_token_take_the_same_work(authority: TestAuthority) -> None:
    first, second = await authority.create_app(), await authority.create_app()
    genuine = (await authority.create_api_token(first.app_id, ["orders.read"], [ORDERS])).api_token
    request = app_service_pb2.ListAppsRequest()
    for wrong, asked in ((f"rpzt_{FORGED}", []), (genuine, ["api_token"])):
        for name in (second.app_id, MISSING):
            call = authority.anonymous.apps.ListApps(request, metadata=basic(name, wrong))
            assert await work(authority, call, Reason.TOKEN_INVALID) == asked, (name, wrong)


def _every_call(stubs: Stubs, app_id: str) -> list[tuple[Any, Any]]:
    """All that names an App: methods and requests."""
    apps, tokens = app_service_pb2, token_service_pb2
    return [
        (stubs.apps.GetApp, apps.GetAppRequest(app_id=app_id)),
        (
            stubs.apps.UpdateApp,
            apps.UpdateAppRequest(app=apps.App(app_id=app_id, display_name="x"), update_mask=NAME),
        ),
        (stubs.apps.LockApp, apps.LockAppRequest(app_id=app_id)),
        (stubs.apps.UnlockApp, apps.UnlockAppRequest(app_id=app_id)),
        (stubs.apps.DeleteApp, apps.DeleteAppRequest(app_id=app_id)),
        (stubs.apps.EndAllTokens, apps.EndAllTokensRequest(app_id=app_id)),
        (stubs.apps.CreateClientSecret, apps.CreateClientSecretRequest(app_id=app_id)),
        (stubs.apps.RotateClientSecret, apps.RotateClientSecretRequest(app_id=app_id)),
        (stubs.apps.ListClientSecrets, apps.ListClientSecretsRequest(app_id=app_id)),
        (stubs.apps.RevokeClientSecret, apps.RevokeClientSecretRequest(app_id=app_id, secret_id="x")),
        (stubs.apps.ListRefusals, apps.ListRefusalsRequest(app_id=app_id)),
        (
            stubs.tokens.CreateApiToken,
            tokens.CreateApiTokenRequest(app_id=app_id, scopes=["a"], resources=[ORDERS]),
        ),
        (stubs.tokens.ListApiTokens, tokens.ListApiTokensRequest(app_id=app_id)),
        (stubs.tokens.RotateApiToken, tokens.RotateApiTokenRequest(app_id=app_id, api_token_id="x")),
        (stubs.tokens.RevokeApiToken, tokens.RevokeApiTokenRequest(app_id=app_id, api_token_id="x")),
        (stubs.tokens.ListGrants, tokens.ListGrantsRequest(client_id=app_id)),
    ]


async def test_r144_a121_a125_foreign_and_missing_apps_take_the_same_work(authority: TestAuthority) -> None:
    foreign = (await authority.create_client()).app_id
    _, stubs = await authority.app_with("rpz.apps")
    await refusal(stubs.apps.GetApp(app_service_pb2.GetAppRequest(app_id=MISSING)))  # its token is known now
    pairs = zip(_every_call(stubs, foreign), _every_call(stubs, MISSING), strict=True)
    for (method, of_foreign), (_, of_missing) in pairs:
        works = [
            await work(authority, method(request), Reason.NOT_FOUND) for request in (of_foreign, of_missing)
        ]
        assert works == [["app"], ["app"]], of_foreign
