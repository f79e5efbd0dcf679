"""An outside OpenID Connect provider as its client: authorization code with PKCE, state and nonce.

What its token endpoint answers is believed only as far as the ID token's signature, issuer, audience, nonce
and times go (OpenID Connect Core §3.1.3.7).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from rpz_auth.errors import RpzAuthError

from rpz_auth_server.domain.account import Account
from rpz_auth_server.flows.external_identities import OutsideIdentity
from rpz_auth_server.transport.console.cookies import LONGEST
from rpz_auth_server.transport.console.provider_settings import ProviderSettings

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
"""Never one with a shared secret, and never `none`."""
LIFETIME = 600
"""Seconds for which somebody may be away at the provider."""

_CACHED = 3600.0
_TIMEOUT = 10.0
_LEEWAY = 60
_MAX_ANSWER = 256 * 1024
_PLAIN = {"Accept-Encoding": "identity"}
"""What is compressed could become any number of bytes."""
_RETRY_AFTER = 5.0
"""Seconds for which a provider that could not be reached is not asked again, however many want to sign in."""
_COOKIE = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST}}}", re.ASCII)

MAX_BACK = 10_000
"""Characters of an address to go on to that fit into the cookies, with all else that stands there."""


class ProviderFailed(RpzAuthError):  # noqa: N818 - an answer, not a fault
    """The provider did not say who it is, or not in a way that can be believed. The log has the detail."""


class NotBelieved(ProviderFailed):
    """It was there, and what the browser brought is worth nothing to it, or what it says nothing to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What a browser keeps while its person is at the provider; nobody else's answer fits it."""

    state: str
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    back: str
    session_id: str | None
    """The session that the identity is to be linked to, and no other: whoever signs in at this browser
    meanwhile has not asked for it. None for somebody who signs in."""
    proof: str = field(default="", repr=False)
    """That its person has given the password to link; the browser keeps all else without being believed."""
    until: int

    @classmethod
    def begin(cls, *, back: str, session_id: str | None = None, account: Account | None = None) -> Journey:
        """Draw what the answer must fit.

        Args:
            back: Where to go on.
            session_id: That the identity is to be linked to.
            account: Whose person has given the password to link it.
        """
        draw = secrets.token_urlsafe
        state = draw(32)
        return cls(
            state=state,
            proof="" if account is None else _proof(account, state),
            nonce=draw(32),
            code_verifier=draw(48),
            back=back,
            session_id=session_id,
            until=int(time.time()) + LIFETIME,
        )

    def is_proved(self, account: Account) -> bool:
        """Tell whether the identity may be linked to an account: its password, if it has one, was given."""
        return hmac.compare_digest(self.proof.encode(), _proof(account, self.state).encode())

    def to_cookie(self) -> str:
        """As the cookie's value."""
        fields = [
            *(self.state, self.nonce, self.code_verifier, self.back),
            *(self.session_id, self.proof, self.until),
        ]
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()

    @classmethod
    def of_cookie(cls, value: str) -> Journey | None:
        """Read it again; None for anything else, and for one that took too long."""
        if not _COOKIE.fullmatch(value):
            return None
        try:
            fields = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
            state, nonce, code_verifier, back, session_id, proof, until = fields
            texts = [state, nonce, code_verifier, back, proof, "" if session_id is None else session_id]
            "".join(texts).encode()  # a TypeError for what is no text, a ValueError for half a character
        except (ValueError, TypeError, RecursionError):
            return None
        if not isinstance(until, int) or until <= time.time():
            return None
        return cls(
            state=state,
            nonce=nonce,
            code_verifier=code_verifier,
            back=back,
            session_id=session_id,
            proof=proof,
            until=until,
        )


def _proof(account: Account, state: str) -> str:
    """What only the authority can make: nobody else has the hash of the password."""
    if account.password_hash is None:
        return ""
    return hmac.digest(account.password_hash.encode(), f"rpz-auth link {state}".encode(), "sha256").hex()


class Provider:
    """One provider; asks for its metadata and keys when they are needed."""

    def __init__(self, settings: ProviderSettings) -> None:
        """Ask nothing yet."""
        self.settings = settings
        self._metadata: dict[str, Any] = {}
        self._read_at = 0.0
        self._retry_at = 0.0
        self._reading = asyncio.Lock()

    async def leave_for(self, journey: Journey, redirect_uri: str) -> str:
        """The address at the provider to send a browser to.

        Raises:
            ProviderFailed: The provider cannot be reached.
        """
        digest = hashlib.sha256(journey.code_verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid profile",
            "state": journey.state,
            "nonce": journey.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = str((await self._describe())["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urllib.parse.urlencode(query)}"

    async def come_back(self, journey: Journey, code: str, redirect_uri: str) -> OutsideIdentity:
        """Redeem the code, and find out who it is.

        Raises:
            NotBelieved: It does not say so, or not in a way that can be believed.
            ProviderFailed: It cannot be reached.
        """
        metadata = await self._describe()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": journey.code_verifier,
        }
        credentials = (
            urllib.parse.quote(self.settings.client_id, safe=""),
            urllib.parse.quote(self.settings.client_secret, safe=""),
        )
        answer = await self._ask("POST", str(metadata["token_endpoint"]), data=form, auth=credentials)
        keys = await self._ask("GET", str(metadata["jwks_uri"]))
        return self._verify(str(answer.get("id_token", "")), keys, journey.nonce)

    def _verify(self, id_token: str, keys: dict[str, Any], nonce: str) -> OutsideIdentity:
        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY,
            iss={"essential": True, "value": self.settings.issuer},
            aud={"essential": True, "value": self.settings.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = jwt.decode(id_token, KeySet.import_key_set(keys), algorithms=ALGORITHMS).claims  # type: ignore[arg-type] # untyped JSON
            registry.validate(claims)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise NotBelieved("the ID token cannot be believed") from error
        subject, party = claims["sub"], claims.get("azp", self.settings.client_id)
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or party != self.settings.client_id:  # noqa: PLR2004 - Core §2
            raise NotBelieved("the ID token is not for this client, or its subject is malformed")
        return OutsideIdentity(
            issuer=self.settings.issuer, subject=subject, name=str(claims.get("name", ""))[:100]
        )

    async def _describe(self) -> dict[str, Any]:
        async with self._reading:
            if time.monotonic() - self._read_at > _CACHED or not self._metadata:
                if time.monotonic() < self._retry_at:
                    raise ProviderFailed("it could not be reached a moment ago")
                self._retry_at = time.monotonic() + _RETRY_AFTER
                self._metadata = await self._read_metadata()
                self._read_at, self._retry_at = time.monotonic(), 0.0
            return self._metadata

    async def _read_metadata(self) -> dict[str, Any]:
        issuer = self.settings.issuer
        # "any terminating / MUST be removed" (Discovery §4.1), and is a part of the issuer all the same.
        metadata = await self._ask("GET", f"{issuer.removesuffix('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != issuer:  # Discovery §4.3
            raise ProviderFailed("its metadata name another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if issuer.startswith("https://") and not str(metadata.get(name, "")).startswith("https://"):
                raise ProviderFailed(f"its {name} is not https")
        return metadata

    async def _ask(self, method: str, url: str, **request: Any) -> dict[str, Any]:
        try:
            async with (
                httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, headers=_PLAIN) as client,
                client.stream(method, url, **request) as answer,
            ):
                if method == "POST" and answer.status_code == httpx.codes.BAD_REQUEST:  # invalid_grant
                    raise NotBelieved("it knows no such code")
                if answer.status_code != httpx.codes.OK:
                    raise ProviderFailed(f"it answered {answer.status_code}")
                content = json.loads(await _read(answer))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise ProviderFailed("it cannot be reached, or does not speak JSON") from error
        if not isinstance(content, dict):
            raise ProviderFailed("it answered with something else than an object")
        return content


async def _read(answer: httpx.Response) -> bytes:
    """The bytes of an answer as they travelled.

    Raises:
        ProviderFailed: They are too many; the rest is not read.
    """
    content = b""
    async for part in answer.aiter_raw():
        content += part
        if len(content) > _MAX_ANSWER:
            raise ProviderFailed("its answer is too long")
    return content
