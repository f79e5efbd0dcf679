"""The middleware for HTTP services on ASGI, Starlette and FastAPI among them.

It stands before the application::

    app.add_middleware(
        rpz_auth.asgi.AuthMiddleware,
        authority=rpz_auth.connect("orders.json"),
        resource="https://orders.example",
        policies={"GET /orders/{order_id}": rpz_auth.scopes("orders.read"), "/health": rpz_auth.PUBLIC},
    )

It decides as the gRPC interceptor does, before the application sees the request; handlers find their caller
by `rpz_auth.caller()`. It needs nothing but the ASGI interface.
"""

from rpz_auth.asgi.middleware import AuthMiddleware

__all__ = ["AuthMiddleware"]
