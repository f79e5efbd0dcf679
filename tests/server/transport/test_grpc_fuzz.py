"""Hostile input in every field of every method: always an answer or a refusal, never a fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2 as verification_pb
from rpz_auth.errors import Reason
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    REDIRECT_URI,
    Refused,
    Stubs,
    TestAuthority,
    challenge_of,
    code_request,
    exchange_request,
    outcome,
)
from server.transport.test_grpc_server import METHODS, call

HOSTILE = [
    "' OR 1=1 --",
    '"; DROP TABLE apps; --',
    "%",
    "_",
    "\x00",
    "a\x00b",
    "\r\nx: y",
    "\u202e",
    "\ufeff",
    "\U0010ffff",
    "../../etc/passwd",
    "{{7*7}}",
    "-1",
    "9" * 5000,
    "x" * 20_000,
    "null",
]
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}
INTEGERS = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1)


def messages(descriptor: Descriptor, real: list[str], depth: int = 2) -> st.SearchStrategy[Any]:
    """Messages of a type, with texts that are hostile, random, or really of this authority."""
    texts = st.sampled_from([*real, *HOSTILE]) | st.text(max_size=60)
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                values: st.SearchStrategy[Any] = texts
            case FieldDescriptor.CPPTYPE_BOOL:
                values = st.booleans()
            case FieldDescriptor.CPPTYPE_MESSAGE:
                if not depth or field.message_type is None:
                    continue
                values = messages(field.message_type, real, depth - 1)
            case FieldDescriptor.CPPTYPE_INT64:
                values = st.integers(-(2**63), 2**63 - 1) | INTEGERS
            case _:
                values = INTEGERS
        fields[field.name] = st.lists(values, max_size=3) if field.is_repeated else values
    make = GetMessageClass(descriptor)
    return st.fixed_dictionaries({}, optional=fields).map(lambda given_fields: make(**given_fields))


async def callers(authority: TestAuthority) -> tuple[list[Stubs], list[str]]:
    """Everybody who gets far into some method, and texts that mean something here."""
    client = await authority.create_client()
    code = await authority.issue_code(client)
    tokens = await authority.sign_in(client)
    created = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    _, verifier = await authority.create_verifier()
    real = [
        client.app_id,
        client.secret,
        code,
        tokens.access_token,
        tokens.refresh_token,
        created.api_token,
        created.record.api_token_id,
        str(await authority.store.cursor()),
        "user:1",
        "orders.read",
        "display_name",
        "whitelist",
        "sign_in",
        ORDERS,
        REDIRECT_URI,
        CODE_VERIFIER,
        challenge_of(CODE_VERIFIER),
        "S256",
        "192.0.2.0/24",
        "",
    ]
    return [authority.admin, verifier, authority.anonymous], real


def check(found: Any) -> None:
    if isinstance(found, Refused):
        assert found.code not in FAULTS, found
        # What has no reason was refused by grpc itself.
        assert found.reason is not None or found.code is grpc.StatusCode.RESOURCE_EXHAUSTED, found


@pytest.mark.parametrize("path", sorted(METHODS), ids=lambda path: path.rpartition(".")[2])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_a120_no_text_in_any_field_is_a_fault(
    authority: TestAuthority, path: str, data: st.DataObject
) -> None:
    if not hasattr(authority, "fuzz"):
        authority.fuzz = await callers(authority)  # type: ignore[attr-defined] # once for all examples
    everybody, real = authority.fuzz  # type: ignore[attr-defined] # see above
    message = data.draw(messages(METHODS[path].input_type, real))
    for stubs in everybody:
        check(await outcome(call(stubs.channel, path, message)))


@pytest.mark.parametrize("path", sorted(METHODS), ids=lambda path: path.rpartition(".")[2])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=200))
async def test_a120_no_bytes_for_a_message_are_a_fault(
    authority: TestAuthority, path: str, raw: bytes
) -> None:
    for stubs in (authority.admin, authority.anonymous):
        check(await outcome(call(stubs.channel, path, raw)))


async def test_r120_text_that_is_no_utf_8_is_a_bad_request_with_a_reason(authority: TestAuthority) -> None:
    for path, method in METHODS.items():
        texts = [field for field in method.input_type.fields if field.type == FieldDescriptor.TYPE_STRING]
        for field in texts:
            raw = bytes((field.number << 3 | 2, 2)) + b"\xff\xfe"
            for stubs in (authority.admin, authority.anonymous):
                found = await outcome(call(stubs.channel, path, raw))
                assert found in (
                    Reason.REQUEST_INVALID,
                    Reason.CREDENTIALS_MISSING,
                ), path


async def test_a120_one_hostile_text_in_an_otherwise_right_request_is_answered_or_refused(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    app = await authority.create_app()
    created = await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])
    _, verifier = await authority.create_verifier()
    admin, anonymous, apps = authority.admin, authority.anonymous, app_pb
    update = apps.UpdateAppRequest(app=apps.App(app_id=app.app_id, display_name="x"), allow_any_peer=True)
    requests: list[tuple[Stubs, str, Any]] = [
        (admin, "TokenService/IssueCode", code_request(client, resources=[ORDERS])),
        (
            anonymous,
            "TokenService/ExchangeToken",
            exchange_request(client, await authority.issue_code(client)),
        ),
        (
            anonymous,
            "TokenService/Refresh",
            pb.RefreshRequest(refresh_token=tokens.refresh_token, scopes=["orders.read"], **client.body),
        ),
        (anonymous, "TokenService/RevokeToken", pb.RevokeTokenRequest(token="x", **client.body)),
        (verifier, "TokenService/IntrospectToken", pb.IntrospectTokenRequest(token=tokens.access_token)),
        (admin, "TokenService/RevokeSubject", pb.RevokeSubjectRequest(subject="user:2")),
        (
            admin,
            "TokenService/CreateApiToken",
            pb.CreateApiTokenRequest(app_id=app.app_id, scopes=["orders.read"], resources=[ORDERS]),
        ),
        (admin, "TokenService/ListApiTokens", pb.ListApiTokensRequest(app_id=app.app_id)),
        (
            admin,
            "TokenService/RevokeApiToken",
            pb.RevokeApiTokenRequest(app_id=app.app_id, api_token_id=created.record.api_token_id),
        ),
        (admin, "AppService/CreateApp", apps.CreateAppRequest(app=app)),
        (admin, "AppService/GetApp", apps.GetAppRequest(app_id=app.app_id)),
        (admin, "AppService/ListApps", apps.ListAppsRequest()),
        *((admin, "AppService/UpdateApp", _masked(update, path)) for path in sorted(UPDATABLE)),
        (admin, "AppService/CreateClientSecret", apps.CreateClientSecretRequest(app_id=app.app_id)),
        (admin, "AppService/RevokeClientSecret", apps.RevokeClientSecretRequest(app_id=app.app_id)),
        (
            verifier,
            "VerificationService/VerifyApiToken",
            verification_pb.VerifyApiTokenRequest(app_id=app.app_id, api_token=created.api_token),
        ),
        (
            verifier,
            "VerificationService/GetStanding",
            verification_pb.GetStandingRequest(app_ids=[app.app_id], ids=[created.record.api_token_id]),
        ),
        (verifier, "VerificationService/Watch", verification_pb.WatchRequest()),
    ]
    for stubs, name, request in requests:
        for text in HOSTILE:
            for changed in _with_text(request, text):
                check(await outcome(call(stubs.channel, f"/rpz.auth.v1.{name}", changed)))


UPDATABLE = {"display_name", "owner", "redirect_uris", "scopes", "resources", "whitelist", "sign_in"}


def _masked(update: app_pb.UpdateAppRequest, path: str) -> app_pb.UpdateAppRequest:
    masked = app_pb.UpdateAppRequest()
    masked.CopyFrom(update)
    masked.update_mask.paths.append(path)
    return masked


def _with_text(message: Any, text: str) -> Iterator[Any]:
    """The message with the text in one field after the other."""
    for field in message.DESCRIPTOR.fields:
        changed = type(message)()
        changed.CopyFrom(message)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if field.is_repeated:
                getattr(changed, field.name).append(text)
            else:
                setattr(changed, field.name, text)
            yield changed
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not field.is_repeated:
            for inner in _with_text(getattr(message, field.name), text):
                getattr(changed, field.name).CopyFrom(inner)
                yield changed
