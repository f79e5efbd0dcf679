"""The authority over the network."""

from rpz_auth.connection.watch import Connection, connect

__all__ = ["Connection", "connect"]
