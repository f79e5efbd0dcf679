"""People: for administrators, who invite them and say what they may hand to their Apps."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.account import Account, Role
from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.flows import accounts
from rpz_auth_server.flows.accounts import AccountFields, Invited
from rpz_auth_server.transport.console.desk import HOME, MENDABLE, Desk, Handler, Visit
from rpz_auth_server.transport.console.sign_in import WELCOME

_PAGE = 100


@dataclass(frozen=True, slots=True)
class PeoplePages:
    """Accounts."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""

        def route(path: str, handler: Handler, *methods: str) -> Route:
            endpoint = self.desk.page(handler, administrator=True)
            return Route(HOME + "/people" + path, endpoint, methods=[*methods])

        return [
            route("", self.list, "GET"),
            route("/new", self.new, "GET", "POST"),
            route("/{account_id}", self.edit, "GET", "POST"),
            route("/{account_id}/invite", self.invite, "POST"),
            route("/{account_id}/disable", self.disable, "POST"),
            route("/{account_id}/enable", self.enable, "POST"),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show everybody."""
        after = visit.request.query_params.get("after", "")
        found = await accounts.list_accounts(self.desk.authority, visit.person, after=after, limit=_PAGE)
        following = found[-1].user_name if len(found) == _PAGE else None
        return self.desk.show(visit, "people.html", people=found, next_after=following)

    async def new(self, visit: Visit) -> Response:
        """Invite somebody."""
        form = visit.form
        if visit.request.method == "GET":
            return self._form(visit, None)
        try:
            invited = await accounts.create_account(
                self.desk.authority, visit.person, form.one("user_name"), _fields(visit)
            )
        except MENDABLE as refusal:
            return self._form(visit, None, wrong=refusal.message)
        return self._invited(visit, invited)

    async def edit(self, visit: Visit) -> Response:
        """Change what somebody may do."""
        authority, account_id = self.desk.authority, visit.named("account_id")
        account = await accounts.get_account(authority, visit.person, account_id)
        if visit.request.method == "GET":
            return self._form(visit, account)
        try:
            await accounts.update_account(authority, visit.person, account_id, _fields(visit))
        except MENDABLE as refusal:
            return self._form(visit, account, wrong=refusal.message)
        return self.desk.go(f"{HOME}/people/{account_id}", said="account-saved")

    async def invite(self, visit: Visit) -> Response:
        """Make another one-time link."""
        account_id = visit.named("account_id")
        return self._invited(
            visit, await accounts.invite_again(self.desk.authority, visit.person, account_id)
        )

    async def disable(self, visit: Visit) -> Response:
        """Sign somebody out for good."""
        account_id = visit.named("account_id")
        await accounts.disable_account(self.desk.authority, visit.person, account_id)
        return self.desk.go(f"{HOME}/people/{account_id}", said="disabled")

    async def enable(self, visit: Visit) -> Response:
        """Let somebody in again."""
        account_id = visit.named("account_id")
        await accounts.enable_account(self.desk.authority, visit.person, account_id)
        return self.desk.go(f"{HOME}/people/{account_id}", said="enabled")

    def _invited(self, visit: Visit, invited: Invited) -> Response:
        # Behind the #, which browsers send to nobody and no log ever sees.
        link = f"{self.desk.authority.issuer}{WELCOME}#{invited.account.account_id}.{invited.code}"
        return self.desk.show(visit, "invited.html", account=invited.account, link=link)

    def _form(self, visit: Visit, account: Account | None, *, wrong: str | None = None) -> Response:
        form = visit.form
        if form.fields:
            written = {
                name: form.one(name) for name in ("user_name", "display_name", "role", "scopes", "resources")
            }
        else:
            written = {
                "user_name": account.user_name if account else "",
                "display_name": account.display_name if account else "",
                "role": account.role.value if account else Role.MEMBER.value,
                "scopes": "\n".join(sorted(account.scopes)) if account else "",
                "resources": "\n".join(sorted(account.resources)) if account else "",
            }
        return self.desk.show(
            visit,
            "account_of.html",
            status=400 if wrong else 200,
            wrong=wrong,
            account=account,
            written=written,
            own=account is not None and account.account_id == visit.person.account.account_id,
        )


def _fields(visit: Visit) -> AccountFields:
    form = visit.form
    try:
        role = Role(form.one("role")) if form.one("role") else None
    except ValueError:
        raise RequestInvalid("choose a role") from None
    return AccountFields(
        display_name=form.one("display_name").strip(),
        role=role,
        scopes=form.lines("scopes"),
        resources=form.lines("resources"),
    )
