"""How the order service is started, whichever stack it runs on."""

from __future__ import annotations

import argparse
from pathlib import Path

import grpc


def read(description: str | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--verifier", type=Path, required=True, help="file of `rpz-auth apps create --verifier`"
    )
    parser.add_argument("--address", default="127.0.0.1:8471", help="host:port to listen on")
    parser.add_argument("--tls-certificate", type=Path, required=True, help="PEM file of the server's chain")
    parser.add_argument("--tls-key", type=Path, required=True, help="PEM file of its private key")
    parser.add_argument(
        "--tls-client-ca", type=Path, help="PEM file; demands client certificates signed by these"
    )
    return parser.parse_args()


def server_credentials(options: argparse.Namespace) -> grpc.ServerCredentials:
    """Read the TLS files."""
    client_ca = options.tls_client_ca and options.tls_client_ca.read_bytes()
    return grpc.ssl_server_credentials(
        [(options.tls_key.read_bytes(), options.tls_certificate.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def describe(options: argparse.Namespace, port: int) -> str:
    """The line that tells whoever started the service that it is ready, and where."""
    return f"orders listens on {options.address.rpartition(':')[0]}:{port}"
