"""The service `rpz.auth.v1.TokenService`."""

from __future__ import annotations

import math
from typing import Any

import rpz_auth
from rpz.auth.v1 import token_service_pb2 as pb
from rpz.auth.v1 import token_service_pb2_grpc as pb_grpc

from rpz_auth_server.flows import api_tokens, grants
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.credentials import expiry_warnings
from rpz_auth_server.flows.exchange_token import ExchangeToken, exchange_token
from rpz_auth_server.flows.explain_credential import explain_credential
from rpz_auth_server.flows.introspect_token import introspect_token
from rpz_auth_server.flows.issue_code import IssueCode, issue_code
from rpz_auth_server.flows.refresh import Refresh, refresh
from rpz_auth_server.flows.revoke_subject import revoke_subject
from rpz_auth_server.flows.revoke_token import RevokeToken, revoke_token
from rpz_auth_server.flows.token_exchange import ACCESS_TOKEN_TYPE, TokenExchange, token_exchange
from rpz_auth_server.transport.grpc import explanations, messages

_BEARER = "Bearer"


class TokenService(pb_grpc.TokenServiceServicer):
    """Codes, access tokens, refresh tokens, API tokens."""

    def __init__(self, authority: Authority) -> None:
        """Serve the flows of `authority`."""
        self._authority = authority

    async def IssueCode(self, request: pb.IssueCodeRequest, _context: Any) -> pb.IssueCodeResponse:
        """RFC 6749 §4.1.2."""
        code, expires_in = await issue_code(
            self._authority,
            rpz_auth.caller(),
            IssueCode(
                client_id=request.client_id,
                redirect_uri=request.redirect_uri,
                scopes=frozenset(request.scopes),
                subject=request.subject,
                code_challenge=request.code_challenge,
                code_challenge_method=request.code_challenge_method,
                resources=frozenset(request.resources),
            ),
        )
        return pb.IssueCodeResponse(code=code, expires_in=expires_in)

    async def ExchangeToken(self, request: pb.ExchangeTokenRequest, context: Any) -> pb.ExchangeTokenResponse:
        """RFC 6749 §4.1.3."""
        tokens = await exchange_token(
            self._authority,
            ExchangeToken(
                client=messages.client_credentials(context, request),
                code=request.code,
                redirect_uri=request.redirect_uri,
                code_verifier=request.code_verifier,
                resource=request.resource,
            ),
        )
        return pb.ExchangeTokenResponse(
            access_token=tokens.access_token,
            token_type=_BEARER,
            expires_in=tokens.expires_in,
            refresh_token=tokens.refresh_token,
            scopes=sorted(tokens.scopes),
        )

    async def Refresh(self, request: pb.RefreshRequest, context: Any) -> pb.RefreshResponse:
        """RFC 6749 §6."""
        tokens = await refresh(
            self._authority,
            Refresh(
                client=messages.client_credentials(context, request),
                refresh_token=request.refresh_token,
                scopes=frozenset(request.scopes),
                resource=request.resource,
            ),
        )
        return pb.RefreshResponse(
            access_token=tokens.access_token,
            token_type=_BEARER,
            expires_in=tokens.expires_in,
            refresh_token=tokens.refresh_token,
            scopes=sorted(tokens.scopes),
        )

    async def TokenExchange(self, request: pb.TokenExchangeRequest, context: Any) -> pb.TokenExchangeResponse:
        """RFC 8693."""
        exchanged = await token_exchange(
            self._authority,
            TokenExchange(
                client=messages.client_credentials(context, request),
                subject_token=request.subject_token,
                subject_token_type=request.subject_token_type,
                scopes=frozenset(request.scopes),
                resource=request.resource,
            ),
        )
        return pb.TokenExchangeResponse(
            access_token=exchanged.access_token,
            issued_token_type=ACCESS_TOKEN_TYPE,
            token_type=_BEARER,
            expires_in=exchanged.expires_in,
            scopes=sorted(exchanged.scopes),
        )

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:
        """RFC 7009."""
        client = messages.client_credentials(context, request)
        await revoke_token(self._authority, RevokeToken(client=client, token=request.token))
        return pb.RevokeTokenResponse()

    async def IntrospectToken(
        self, request: pb.IntrospectTokenRequest, _context: Any
    ) -> pb.IntrospectTokenResponse:
        """RFC 7662."""
        verdict = await introspect_token(self._authority, rpz_auth.caller(), request.token)
        if verdict is None:
            return pb.IntrospectTokenResponse(active=False)
        return pb.IntrospectTokenResponse(
            active=True,
            scopes=sorted(verdict.scopes),
            client_id=verdict.app_id,
            token_type=_BEARER if verdict.how is rpz_auth.How.ACCESS_TOKEN else "Basic",
            exp=0 if math.isinf(verdict.expires_at) else int(verdict.expires_at),
            iat=int(verdict.issued_at),
            sub=verdict.subject,
            aud=sorted(verdict.resources),
            iss=self._authority.issuer,
            jti=verdict.token_id,
        )

    async def ExplainCredential(
        self, request: pb.ExplainCredentialRequest, _context: Any
    ) -> pb.ExplainCredentialResponse:
        """Why a service refuses it."""
        explained = await explain_credential(
            self._authority, rpz_auth.caller(), explanations.read_call(request)
        )
        return explanations.write_explanation(explained)

    async def RevokeSubject(
        self, request: pb.RevokeSubjectRequest, _context: Any
    ) -> pb.RevokeSubjectResponse:
        """Every grant of a user."""
        revoked = await revoke_subject(self._authority, rpz_auth.caller(), request.subject)
        return pb.RevokeSubjectResponse(revoked_grants=revoked)

    async def ListGrants(self, request: pb.ListGrantsRequest, _context: Any) -> pb.ListGrantsResponse:
        """Those that are alive, a page at a time."""
        page = await grants.list_grants(
            self._authority,
            rpz_auth.caller(),
            client_id=request.client_id,
            subject=request.subject,
            after=request.page_token,
            limit=messages.read_page_size(request.page_size),
        )
        return pb.ListGrantsResponse(
            grants=map(messages.write_grant, page.grants), next_page_token=page.next_after
        )

    async def RevokeGrant(self, request: pb.RevokeGrantRequest, _context: Any) -> pb.RevokeGrantResponse:
        """Refused everywhere at once."""
        await grants.revoke_grant(self._authority, rpz_auth.caller(), request.grant_id)
        return pb.RevokeGrantResponse()

    async def CreateApiToken(
        self, request: pb.CreateApiTokenRequest, _context: Any
    ) -> pb.CreateApiTokenResponse:
        """The token itself is in this answer and nowhere else."""
        made = await api_tokens.create_api_token(
            self._authority,
            rpz_auth.caller(),
            request.app_id,
            display_name=request.display_name,
            scopes=request.scopes,
            resources=request.resources,
            expires_at=messages.read_time(request, "expire_time"),
            request_id=request.request_id,
        )
        return pb.CreateApiTokenResponse(record=messages.write_api_token(made.record), api_token=made.text)

    async def RotateApiToken(
        self, request: pb.RotateApiTokenRequest, _context: Any
    ) -> pb.RotateApiTokenResponse:
        """A successor, and a deadline for the one before it."""
        made = await api_tokens.rotate_api_token(
            self._authority,
            rpz_auth.caller(),
            request.app_id,
            request.api_token_id,
            messages.read_replacement(request),
        )
        return pb.RotateApiTokenResponse(
            record=messages.write_api_token(made.record),
            api_token=made.text,
            replaced=messages.write_api_token(made.replaced) if made.replaced else None,
        )

    async def UpdateApiToken(
        self, request: pb.UpdateApiTokenRequest, _context: Any
    ) -> pb.UpdateApiTokenResponse:
        """Another name or deadline."""
        given = request.api_token
        fields = messages.read_credential_fields(given, request.update_mask)
        record = await api_tokens.update_api_token(
            self._authority, rpz_auth.caller(), given.app_id, given.api_token_id, fields
        )
        return pb.UpdateApiTokenResponse(api_token=messages.write_api_token(record))

    async def ListApiTokens(
        self, request: pb.ListApiTokensRequest, _context: Any
    ) -> pb.ListApiTokensResponse:
        """Records, never the tokens."""
        limit = messages.read_page_size(request.page_size)
        records = await api_tokens.list_api_tokens(
            self._authority,
            rpz_auth.caller(),
            request.app_id,
            after=request.page_token,
            limit=limit,
        )
        return pb.ListApiTokensResponse(
            api_tokens=map(messages.write_api_token, records),
            next_page_token=messages.next_page([record.api_token_id for record in records], limit),
            warnings=expiry_warnings(records, self._authority.store.now(), self._authority.expiry_warning),
        )

    async def RevokeApiToken(
        self, request: pb.RevokeApiTokenRequest, _context: Any
    ) -> pb.RevokeApiTokenResponse:
        """Refused everywhere at once."""
        await api_tokens.revoke_api_token(
            self._authority, rpz_auth.caller(), request.app_id, request.api_token_id
        )
        return pb.RevokeApiTokenResponse()
