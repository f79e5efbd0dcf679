"""What happened to an App and by it: users' grants, the audit log, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rpz_auth_server.domain.account import SUBJECT_PREFIX
from rpz_auth_server.domain.event import AuditRecord
from rpz_auth_server.flows import refusals
from rpz_auth_server.flows.audit_records import NEWEST, AuditFilter, list_newest_audit_records
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.grants import list_grants, revoke_grant
from rpz_auth_server.transport.console.desk import HOME, Desk, Visit

_GRANTS = 100
_SHOWN = 100
_REFUSALS = 30
_LONGEST_NUMBER = 17


@dataclass(frozen=True, slots=True)
class RecordPages:
    """Grants and records of one App, and the records of all for administrators."""

    desk: Desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        page = self.desk.page
        app = HOME + "/apps/{app_id}"
        return [
            Route(app + "/grants", page(self.grants), methods=["GET"]),
            Route(app + "/grants/{grant_id}/revoke", page(self.revoke), methods=["POST"]),
            Route(app + "/audit", page(self.audit), methods=["GET"]),
            Route(HOME + "/audit", page(self.whole_audit, administrator=True), methods=["GET"]),
        ]

    async def grants(self, visit: Visit) -> Response:
        """Show which users allowed the App something."""
        app = await self.desk.app(visit)
        after = visit.request.query_params.get("after", "")
        found = await list_grants(
            self.desk.authority, visit.person, client_id=app.app_id, subject="", after=after, limit=_GRANTS
        )
        return self.desk.show(
            visit, "grants.html", app=app, tab="grants", grants=found.grants, next_after=found.next_after
        )

    async def revoke(self, visit: Visit) -> Response:
        """End one user's grant."""
        app_id, grant_id = visit.named("app_id"), visit.named("grant_id")
        await revoke_grant(self.desk.authority, visit.person, grant_id)
        return self.desk.go(f"{HOME}/apps/{app_id}/grants", said="revoked")

    async def audit(self, visit: Visit) -> Response:
        """Show what was done to the App, and which of its calls were refused."""
        app = await self.desk.app(visit)
        records, older = await _newest_records(self.desk.authority, AuditFilter(app_id=app.app_id), visit)
        refused = await refusals.list_refusals(
            self.desk.authority, visit.person, app.app_id, before=refusals.NEWEST, limit=_REFUSALS
        )
        return self.desk.show(
            visit,
            "audit.html",
            app=app,
            tab="audit",
            records=records,
            older=older,
            refusals=refused,
            own=visit.person.subject,
        )

    async def whole_audit(self, visit: Visit) -> Response:
        """Show what was done at all."""
        action = visit.request.query_params.get("action", "")[:100]
        records, older = await _newest_records(self.desk.authority, AuditFilter(action=action), visit)
        names = {}
        for actor in {record.audit.actor for record in records}:
            account = await self.desk.authority.store.account(actor.removeprefix(SUBJECT_PREFIX))
            if account is not None:
                names[actor] = account.display_name
        return self.desk.show(
            visit, "whole_audit.html", records=records, older=older, action=action, names=names
        )


async def _newest_records(
    authority: Authority, wanted: AuditFilter, visit: Visit
) -> tuple[Sequence[AuditRecord], int | None]:
    """The newest records that fit, the newest first, and before which sequence the next page begins."""
    page = await list_newest_audit_records(authority, wanted, before=_before(visit), limit=_SHOWN)
    return page.records, None if page.is_last else page.place


def _before(visit: Visit) -> int:
    text = visit.request.query_params.get("before", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else NEWEST
