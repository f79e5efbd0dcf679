"""Hostile input in every field of every method: always an answer or a refusal, never a fault."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpz_auth.errors import Reason
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    REDIRECT_URI,
    Refused,
    Stubs,
    TestAuthority,
    challenge_of,
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
                if not depth:
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
