from __future__ import annotations

from pathlib import Path

from rpz_auth_server.transport.tls.followed import CertificateFiles, Followed
from structlog.testing import capture_logs


def test_what_could_not_be_read_is_told_once_and_read_again_at_the_next_handshake(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "a.pem", tmp_path / "a.key", None)
    files.certificate.write_text("old")
    files.key.write_text("old")
    busy = False

    def make(files: CertificateFiles) -> str:
        if busy:
            raise OSError(24, "Too many open files", str(files.key))
        return files.certificate.read_text()

    followed = Followed(files, make)
    files.certificate.write_text("renewed")
    busy = True
    with capture_logs() as logs:
        assert [followed.renew(), followed.renew()] == [False, False]
    assert (followed.newest, len(logs)) == ("old", 1)
    busy = False
    assert [followed.renew(), followed.renew()] == [True, False]
    assert followed.newest == "renewed"
