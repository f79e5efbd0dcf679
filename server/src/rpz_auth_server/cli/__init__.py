"""The command `rpz-auth`: what operators do with an authority, over gRPC only."""

import os


def main() -> None:
    """Run the command."""
    # grpc's own log would repeat, in its words, what the command says in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from rpz_auth_server.cli.program import run  # noqa: PLC0415 - grpc reads the variable on import

    run()
