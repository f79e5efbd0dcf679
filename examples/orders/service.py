"""What the order service answers, whichever stack it runs on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import rpz_auth
from orders.v1 import orders_pb2

NAME = "orders.v1.OrderService"
RESOURCE = "https://orders.example"
"""This service's own name: what tokens must be for (RFC 8707)."""


def find_order(order_id: str) -> orders_pb2.Order:
    """Find an order, as the caller of the current call may see it."""
    return orders_pb2.Order(order_id=order_id, item="a book", requested_by=rpz_auth.caller().subject)


def take_order(order: orders_pb2.Order) -> orders_pb2.Order:
    """Note who placed an order."""
    return orders_pb2.Order(order_id=order.order_id, item=order.item, requested_by=rpz_auth.caller().subject)


def order_ids(count: int) -> Iterable[str]:
    """The first `count` order IDs; 0 for all of them, which never ends."""
    return map(str, range(1, count + 1) if count else itertools.count(1))


def downstream_authorization(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """What is in `authorization` for this service's own use, or nothing.

    Only beside `x-rpz-auth` is it that: alone it is the credential of the call, which goes nowhere. Nobody
    has verified it; it is for the system that this service passes it on to.
    """
    fields = dict(metadata)
    return str(fields.get("authorization", "")) if "x-rpz-auth" in fields else ""
