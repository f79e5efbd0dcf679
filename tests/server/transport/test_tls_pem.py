from __future__ import annotations

from pathlib import Path

import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.transport.tls.development import ensure_development_files
from rpz_auth_server.transport.tls.pem import read_pair


def test_pair_that_belongs_together_passes_and_no_other(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path)
    read = paths.server.read_bytes(), paths.server_key.read_bytes()
    assert read_pair(paths.server, paths.server_key) == read
    with pytest.raises(ConfigurationError, match="is not the key of the certificate"):
        read_pair(paths.server, paths.ca_key)
