"""The authorization endpoint (RFC 6749 §3.1). Who signs in and what they allow is behind `People`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from rpz_auth.caller import APP_ID
from rpz_auth.errors import Refusal
from rpz_auth.http_status import error_description, error_of
from starlette.requests import Request
from starlette.responses import Response

from rpz_auth_server.domain.authorization import (
    NAMES,
    AuthorizationError,
    AuthorizationRequest,
    Parameters,
    Unredirectable,
    only,
    parse_query,
    read,
    response_uri,
)
from rpz_auth_server.domain.pushed_request import PushedRequest, is_usable, request_id
from rpz_auth_server.domain.refusal import Conflict, RequestInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.issue_code import IssueCode, issue_code
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.push_request import use_up
from rpz_auth_server.transport.oauth.form import read_form
from rpz_auth_server.transport.oauth.people import People

_LOST = "This request was used already, or has expired. Go back to the App and start again."


def serve(authority: Authority, people: People) -> Callable[[Request], Awaitable[Response]]:
    """Serve browsers that Apps send here, and the form of the page that `people` show them."""

    async def authorize(request: Request) -> Response:
        try:
            asked = await _read_request(authority, parse_query(request.scope["query_string"]))
            form = await _read_decision(request)
        except Unredirectable as error:
            return people.problem(request, str(error))
        except RequestInvalid:
            return people.problem(request, "The request cannot be read. Tell whoever sent you here.")
        # Before anything is told to the client (RFC 9700 §4.11.2).
        person = await people.person(request)
        if person is None:
            return await people.sign_in(request, asked.app)
        try:
            if isinstance(asked, AuthorizationError):
                return await _refuse(authority, asked, asked.error, asked.description)
            return await _decide(authority, people, request, person, asked, form)
        except Conflict:
            return people.problem(request, _LOST)

    return authorize


async def _decide(
    authority: Authority,
    people: People,
    request: Request,
    person: Person,
    asked: AuthorizationRequest,
    form: Mapping[str, str] | None,
) -> Response:
    """Let the person decide, and answer the client.

    Raises:
        Conflict: The request that was sent ahead was used in this moment.
    """
    if form is None:
        allowed = await _remembers(people, person, asked)
    else:
        allowed = await people.answer(request, person, asked, form)
    if allowed is None:
        return await people.ask(request, person, asked)
    if not allowed:
        return await _refuse(authority, asked, "access_denied", "the person declined")
    return await _issue(authority, person, asked)


async def _read_request(
    authority: Authority, parameters: Parameters
) -> AuthorizationRequest | AuthorizationError:
    """Judge what the browser brought, or what it stands for if the client has sent it ahead.

    Raises:
        Unredirectable: There is nobody to tell.
    """
    try:
        client_id = only(parameters, "client_id")
        request_uri = only(parameters, "request_uri")
    except RequestInvalid:
        raise Unredirectable("The request names its App more than once.") from None
    if client_id is None or not APP_ID.fullmatch(client_id):
        return read(parameters, None)
    pushed = None
    if request_uri is not None:
        pushed = await _find_pushed(authority, client_id, request_uri)
        parameters = pushed.parameters
    return read(parameters, await authority.store.app(client_id), pushed)


async def _find_pushed(authority: Authority, client_id: str, request_uri: str) -> PushedRequest:
    """The request that was sent ahead; one answer for unknown, used, expired and somebody else's.

    Raises:
        Unredirectable: There is none.
    """
    identifier = request_id(request_uri)
    pushed = await authority.store.pushed_request(identifier) if identifier else None
    if pushed is None or pushed.app_id != client_id or not is_usable(pushed, authority.store.now()):
        raise Unredirectable(_LOST)
    return pushed


async def _read_decision(request: Request) -> Mapping[str, str] | None:
    """The form of the page that asks; None where the browser only comes.

    Raises:
        Unredirectable: It also says what the URL says (A09).
        RequestInvalid: It is no form.
    """
    if request.method != "POST":
        return None
    form = await read_form(request)
    if not NAMES.isdisjoint(form.values):
        raise Unredirectable("The request says the same thing in two places.")
    return form.values


async def _remembers(people: People, person: Person, asked: AuthorizationRequest) -> bool | None:
    """True for what need not be asked again.

    Anybody's program can listen on a loopback address and pass for the App there, so that is asked for every
    time (RFC 8252 §8.6).
    """
    is_claimed = asked.redirect_uri.startswith("https://")
    return True if is_claimed and await people.has_allowed(person, asked) else None


async def _issue(authority: Authority, person: Person, asked: AuthorizationRequest) -> Response:
    """Answer with a code.

    Raises:
        Conflict: The request that was sent ahead was used in this moment.
    """
    request = IssueCode(
        client_id=asked.app.app_id,
        redirect_uri=asked.redirect_uri,
        scopes=asked.scopes,
        subject=person.subject,
        code_challenge=asked.code_challenge,
        code_challenge_method=asked.code_challenge_method,
        resources=asked.resources,
        pushed=asked.pushed,
    )
    try:
        code, _ = await issue_code(authority, person, request)
    except Conflict:
        raise
    except Refusal as refusal:  # what has changed since the request was read
        return await _refuse(authority, asked, error_of(refusal), error_description(refusal))
    return _return(authority, asked, code=code)


async def _refuse(
    authority: Authority, asked: AuthorizationRequest | AuthorizationError, error: str, description: str
) -> Response:
    """Answer with an error; a request that was sent ahead is used up by that as by a code (RFC 9126 §4).

    Raises:
        Conflict: It was used in this moment.
    """
    if asked.pushed is not None:
        await use_up(authority, asked.pushed)
    return _return(authority, asked, error=error, error_description=description)


def _return(
    authority: Authority, asked: AuthorizationRequest | AuthorizationError, **parameters: str
) -> Response:
    """Send the browser back; 303, so that it never repeats a form there (RFC 9700 §4.12)."""
    uri = response_uri(asked.redirect_uri, authority.issuer, asked.state, **parameters)
    return Response(status_code=303, headers={"Location": uri})
