"""An API token that stays at home, exchanged at a real authority."""

from __future__ import annotations

import pytest
import rpz_auth
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import ConfigurationError, RenewalFailed, SignInRequired
from support.authority import RESOURCE, AuthorityProcess
from support.lossy_proxy import LossyProxy
from support.signed_in import LeapingClock


def api_token(
    authority: AuthorityProcess, *resources: str, scopes: tuple[str, ...] = ("orders.read",)
) -> tuple[rpz_auth.ApiToken, str]:
    """An App's API token, and the ID of its record."""
    app = authority.apps.CreateApp(
        app_pb.CreateAppRequest(
            app=app_pb.App(
                kind=app_pb.APP_KIND_DEVICE, display_name="sensor", scopes=scopes, resources=resources
            )
        )
    ).app
    created = authority.tokens.CreateApiToken(
        pb.CreateApiTokenRequest(app_id=app.app_id, scopes=scopes, resources=resources)
    )
    return rpz_auth.ApiToken(app.app_id, created.api_token), created.record.api_token_id


def test_r208_access_tokens_come_and_are_renewed(
    authority: AuthorityProcess, endpoint: rpz_auth.TokenEndpoint
) -> None:
    clock = LeapingClock()
    own, _ = api_token(authority, RESOURCE)
    credential = rpz_auth.ExchangingToken(endpoint, own, clock=clock)
    first = credential.access_token()
    assert credential.access_token() == first
    clock.leap()
    assert credential.access_token() != first
    assert own.token not in repr(credential) + first


def test_r208_resource_and_scopes_are_chosen(
    authority: AuthorityProcess, endpoint: rpz_auth.TokenEndpoint
) -> None:
    own, _ = api_token(authority, RESOURCE, "https://stock.example", scopes=("a", "b"))
    with pytest.raises(RenewalFailed, match="TARGET_INVALID"):
        rpz_auth.ExchangingToken(endpoint, own).access_token()
    assert rpz_auth.ExchangingToken(endpoint, own, resource=RESOURCE, scopes=["a"]).access_token()


def test_r208_a_revoked_api_token_is_said_and_asks_nobody_to_sign_in(
    authority: AuthorityProcess, endpoint: rpz_auth.TokenEndpoint
) -> None:
    own, record_id = api_token(authority, RESOURCE)
    authority.tokens.RevokeApiToken(pb.RevokeApiTokenRequest(app_id=own.app_id, api_token_id=record_id))
    credential = rpz_auth.ExchangingToken(endpoint, own)
    with pytest.raises(RenewalFailed, match="refuses the API token") as failed:
        credential.access_token()
    assert not isinstance(failed.value, SignInRequired)
    credential.check()


def test_r208_an_unlocked_app_goes_on_by_itself(
    authority: AuthorityProcess, endpoint: rpz_auth.TokenEndpoint
) -> None:
    clock = LeapingClock()
    own, _ = api_token(authority, RESOURCE)
    credential = rpz_auth.ExchangingToken(endpoint, own, clock=clock)
    authority.apps.LockApp(app_pb.LockAppRequest(app_id=own.app_id))
    with pytest.raises(RenewalFailed):
        credential.access_token()
    authority.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=own.app_id))
    clock.leap()
    assert credential.access_token()


def test_r208_a_lost_answer_is_asked_for_again(authority: AuthorityProcess) -> None:
    own, _ = api_token(authority, RESOURCE)
    with (
        LossyProxy(authority.address, lambda answer: answer < 3) as proxy,
        rpz_auth.TokenEndpoint(proxy.address, tls=authority.tls) as endpoint,
    ):
        assert rpz_auth.ExchangingToken(endpoint, own).access_token()
        assert (proxy.answers, proxy.lost) == (3, 2)


def test_what_is_no_api_token_is_an_error_at_once(endpoint: rpz_auth.TokenEndpoint) -> None:
    with pytest.raises(ConfigurationError):
        rpz_auth.ExchangingToken(endpoint, rpz_auth.ApiToken("app", "rpzt_secret\n"))
