from __future__ import annotations

import socket

import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.transport import ports


def test_port_that_somebody_listens_on_is_refused_by_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{number}: another program.*--grpc-address"):
            ports.refuse_taken({"--http-address": "127.0.0.1:0", "--grpc-address": f"127.0.0.1:{number}"})


def test_port_that_is_free_is_free_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
    ports.refuse_taken({"--grpc-address": address})
    ports.take(address).close()


def test_address_that_only_its_listener_can_judge_is_left_to_it() -> None:
    with pytest.raises(OSError, match="Cannot assign"):
        ports.take("192.0.2.1:0")
    ports.refuse_taken({"--grpc-address": "192.0.2.1:0"})
