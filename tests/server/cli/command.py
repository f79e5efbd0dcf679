"""Runs the command `rpz-auth` as its console script does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rpz_auth_server.cli import main

PROGRAM = Path(sys.executable).with_name("rpz-auth")


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


def run(arguments: Sequence[str], *, stdin: str = "", environ: Mapping[str, str] | None = None) -> Result:
    """Run the entry point in this process, which has imported it already, with streams of its own."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("RPZ_AUTH_")]:
            patch.delenv(name)
        for name, value in {"GRPC_VERBOSITY": "NONE", **(environ or {})}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [str(PROGRAM), *arguments])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Cli:
    """The command with a credentials file."""

    credentials: Path

    def __call__(self, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> Result:
        return run(["--credentials", str(self.credentials), *arguments], stdin=stdin, environ=environ)

    def json(self, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> Any:
        return self(*arguments, "--json", stdin=stdin, environ=environ).json

    def create_app(self, name: str = "shop", *arguments: str, kind: str = "backend") -> str:
        """Register an App and return its ID."""
        options = ["--redirect-uri", REDIRECT_URI, "--resource", RESOURCE]
        scopes = ["--scope", "orders.read", "--scope", "orders.write"]
        created = self.json("apps", "create", name, "--kind", kind, *options, *scopes, *arguments)
        app_id: str = created["app"]["app_id"]
        return app_id


REDIRECT_URI = "https://shop.example/callback"
RESOURCE = "https://orders.example"
