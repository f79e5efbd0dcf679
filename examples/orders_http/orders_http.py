"""Orders over HTTP: a Starlette service behind the middleware, with a websocket and a stream.

Run it beside an authority (`scripts/serve`), with a verifier file made by
`rpz-auth apps create orders --verifier orders.json --resource https://orders.example`:

    python examples/orders_http/orders_http.py orders.json
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

import rpz_auth
import rpz_auth.asgi
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

RESOURCE = "https://orders.example"
POLICIES = {
    "/health": rpz_auth.PUBLIC,
    "GET /orders/{order_id}": rpz_auth.scopes("orders.read"),
    "DELETE /orders/{order_id}": rpz_auth.scopes("orders.write"),
    "GET /orders": rpz_auth.scopes("orders.read"),
    "WEBSOCKET /feed": rpz_auth.scopes("orders.read"),
}
"""What each path demands; a path that is not here is refused."""


async def health(_request: Request) -> Response:
    """For anybody."""
    return JSONResponse({"status": "ok"})


async def get_order(request: Request) -> Response:
    """Who asks is known by here, and may."""
    caller = rpz_auth.caller()
    return JSONResponse({"order_id": request.path_params["order_id"], "requested_by": caller.subject})


async def delete_order(_request: Request) -> Response:
    """Another scope."""
    return Response(status_code=204)


async def stream_orders(request: Request) -> Response:
    """Goes on for as long as the caller's credential holds."""

    async def orders() -> AsyncIterator[bytes]:
        for number in range(1, int(request.query_params.get("most", "1000000")) + 1):
            yield f"order {number}\n".encode()
            await asyncio.sleep(float(request.query_params.get("every", "1")))

    return StreamingResponse(orders(), media_type="text/plain")


async def feed(websocket: WebSocket) -> None:
    """Ends when the caller's credential does."""
    await websocket.accept()
    await websocket.send_text(f"hello {rpz_auth.caller().subject}")
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text(f"you said {await websocket.receive_text()}")


def build(authority: rpz_auth.Authority) -> Starlette:
    """Put the service together."""
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/orders", stream_orders),
            Route("/orders/{order_id}", get_order, methods=["GET"]),
            Route("/orders/{order_id}", delete_order, methods=["DELETE"]),
            WebSocketRoute("/feed", feed),
        ],
        middleware=[
            Middleware(
                rpz_auth.asgi.AuthMiddleware,
                authority=authority,
                resource=RESOURCE,
                policies=POLICIES,
                query_token=True,
            )
        ],
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # shows what each path demands
    uvicorn.run(build(rpz_auth.connect(sys.argv[1])), port=8000)
