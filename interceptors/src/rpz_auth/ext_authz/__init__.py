"""Envoy's external authorization: the decisions of the interceptor, made for a proxy.

For services in any language behind an Envoy, which asks before it passes a request on::

    authority = rpz_auth.connect("edge.json")
    guard = ExtAuthz(authority, resource="https://orders.example", services=["orders.v1.OrderService"])
    server = grpc.server(ThreadPoolExecutor(8))  # or grpc.aio.server()
    guard.add_to(server)
    server.add_insecure_port("127.0.0.1:9191")  # for Envoy alone: whoever reaches it can test credentials
    with guard:
        server.start()
        server.wait_for_termination()
"""

from rpz_auth.ext_authz.check import ExtAuthz

__all__ = ["ExtAuthz"]
