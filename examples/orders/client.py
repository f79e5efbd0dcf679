"""Calls every method of the order service.

The credential comes from a JSON file, `{"access_token": …}` or `{"app_id": …, "api_token": …}`, or from the
environment: ORDERS_ACCESS_TOKEN, or ORDERS_APP_ID with ORDERS_API_TOKEN. It never stands in an argument,
which every user of the machine could read. Beside `--header x-rpz-auth`, ORDERS_DOWNSTREAM_AUTHORIZATION is
what goes in `authorization`, for the service's own use.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
import rpz_auth
from orders.v1 import orders_pb2 as pb
from orders.v1 import orders_pb2_grpc

TIMEOUT = 10.0
"""Seconds that each call may take."""
_VARIABLES = {
    "access_token": "ORDERS_ACCESS_TOKEN",
    "app_id": "ORDERS_APP_ID",
    "api_token": "ORDERS_API_TOKEN",
}


def read_credential(
    path: Path | None, environ: Mapping[str, str]
) -> rpz_auth.AccessToken | rpz_auth.ApiToken:
    """Take the credential from a file, else from the environment.

    Raises:
        SystemExit: There is none; the message says where to put it.
    """
    if path is None:
        fields = {name: environ.get(variable, "") for name, variable in _VARIABLES.items()}
    else:
        fields = json.loads(path.read_text(encoding="utf-8"))
    match fields:
        case {"access_token": str(token)} if token:
            return rpz_auth.AccessToken(token)
        case {"app_id": str(app_id), "api_token": str(token)} if app_id and token:
            return rpz_auth.ApiToken(app_id, token)
    raise SystemExit(
        "give --credential a file, or set ORDERS_ACCESS_TOKEN, or ORDERS_APP_ID and ORDERS_API_TOKEN"
    )


def call_all(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
    """Call every method and print what it answers.

    Raises:
        grpc.RpcError: A call was refused.
    """
    stub = orders_pb2_grpc.OrderServiceStub(channel)
    orders = [pb.Order(order_id=str(number), item="a book") for number in range(1, 4)]
    status = stub.GetStatus(pb.GetStatusRequest(), timeout=TIMEOUT, metadata=metadata)
    print(f"GetStatus: {status.status}")
    found = stub.GetOrder(pb.GetOrderRequest(order_id="7"), timeout=TIMEOUT, metadata=metadata)
    print(f"GetOrder: order 7, as {found.order.requested_by}")
    if found.downstream_authorization:
        print("GetOrder: the service has an authorization of its own for what it calls in turn")
    watched = stub.WatchOrders(pb.WatchOrdersRequest(count=3), timeout=TIMEOUT, metadata=metadata)
    print(f"WatchOrders: {', '.join(answer.order.order_id for answer in watched)}")
    imported = stub.ImportOrders(
        (pb.ImportOrdersRequest(order=order) for order in orders), timeout=TIMEOUT, metadata=metadata
    )
    print(f"ImportOrders: {imported.imported}")
    traded = stub.TradeOrders(
        (pb.TradeOrdersRequest(order=order) for order in orders), timeout=TIMEOUT, metadata=metadata
    )
    print(f"TradeOrders: {', '.join(answer.order.order_id for answer in traded)}")


def main() -> None:
    """Call; the exit code is 1 when a call is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", default="127.0.0.1:8471", help="host:port of the service")
    parser.add_argument("--ca", type=Path, help="PEM file of whom to trust; else the system's authorities")
    parser.add_argument("--credential", type=Path, help="JSON file; else the environment")
    parser.add_argument("--header", choices=["authorization", "x-rpz-auth"], default="authorization")
    arguments = parser.parse_args()

    downstream = os.environ.get("ORDERS_DOWNSTREAM_AUTHORIZATION")
    metadata = (("authorization", downstream),) if downstream and arguments.header == "x-rpz-auth" else ()
    tls = grpc.ssl_channel_credentials(arguments.ca.read_bytes() if arguments.ca else None)
    credential = read_credential(arguments.credential, os.environ)
    with rpz_auth.secure_channel(arguments.address, credential, header=arguments.header, tls=tls) as channel:
        try:
            call_all(channel, metadata)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name} {rpz_auth.reason_of(error) or ''}: {error.details()}")


if __name__ == "__main__":
    main()
