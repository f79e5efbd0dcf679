"""Whose the API tokens are that somebody gave for another App's."""

from __future__ import annotations

from collections import OrderedDict

_KEPT = 4096


class Owners:
    """Remembers in a bounded space what never changes: an API token stays its App's."""

    def __init__(self) -> None:
        """Know none."""
        self._app_ids: OrderedDict[str, str] = OrderedDict()

    def note(self, api_token_id: str, app_id: str) -> None:
        """Take note of an API token's App."""
        self._app_ids[api_token_id] = app_id
        if len(self._app_ids) > _KEPT:
            self._app_ids.popitem(last=False)

    def may_own(self, app_id: str, api_token_id: str) -> bool:
        """Tell whether an API token can be an App's; False once it is known to be another's."""
        return self._app_ids.get(api_token_id, app_id) == app_id
