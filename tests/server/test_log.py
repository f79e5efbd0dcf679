from __future__ import annotations

import base64
import errno
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth_server import log

HANDLE = "rpzr_" + "Ab3_-" * 12 + "abcd"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
BASIC = "Basic " + base64.b64encode(b"app:" + HANDLE.encode()).decode()
FORMATS: tuple[Literal["console", "json"], ...] = ("console", "json")

Configure = Callable[..., io.StringIO]


@pytest.fixture(name="configure")
def make_configure() -> Iterator[Configure]:
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()

    def configure(log_format: Literal["console", "json"] = "json", log_level: str = "info") -> io.StringIO:
        log.configure(log_format=log_format, log_level=log_level, stream=stream)
        return stream

    yield configure
    root.handlers, root.level = before
    structlog.reset_defaults()


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_structlog_and_standard_library_write_the_same_form(configure: Configure) -> None:
    stream = configure()
    structlog.get_logger("one").info("hello", app_id="a", count=3)
    logging.getLogger("two").warning("hello %s", "world")
    first, second = records(stream)
    assert first.pop("timestamp").endswith("Z")
    assert second.pop("timestamp").endswith("Z")
    assert first == {"event": "hello", "level": "info", "logger": "one", "app_id": "a", "count": 3}
    assert second == {"event": "hello world", "level": "warning", "logger": "two"}


def test_console_line_is_for_eyes_and_keeps_values_apart(configure: Configure) -> None:
    stream = configure("console")
    structlog.get_logger("one").info("hello", name="a b", forged="x level=error", count=3, empty="")
    _, _, rest = stream.getvalue().partition(" ")
    assert rest == 'info hello name="a b" forged="x level=error" count=3 empty="" logger=one\n'


def test_quotes_in_a_value_do_not_end_it(configure: Configure) -> None:
    stream = configure("console")
    structlog.get_logger("one").info("hello", name='a" level="error')
    assert 'name="a\\" level=\\"error"' in stream.getvalue()


def test_records_below_the_level_are_not_written(configure: Configure) -> None:
    stream = configure(log_level="warning")
    structlog.get_logger("one").info("no")
    logging.getLogger("two").info("no")
    logging.getLogger("two").warning("yes")
    assert [record["event"] for record in records(stream)] == ["yes"]


def test_configuring_again_does_not_write_twice(configure: Configure) -> None:
    configure()
    stream = configure()
    logging.getLogger("two").warning("once")
    assert len(records(stream)) == 1


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize(
    "evil",
    ["\n", "\r\n", "\x00", "\x1b[2J", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\ud800", "\t", "\v"],
)
def test_r127_record_is_one_line_without_control_characters(
    configure: Configure, log_format: Literal["console", "json"], evil: str
) -> None:
    stream = configure(log_format)

    def fail() -> None:
        raise ValueError(f"text{evil}text")

    try:
        fail()
    except ValueError:
        structlog.get_logger(f"l{evil}").exception(f"event{evil}", **{f"key{evil}": f"value{evil}"})
    logging.getLogger(f"l{evil}").error("event%s", evil)
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()
    text.encode("utf-8")


@given(st.text())
def test_r127_escaped_text_is_one_line(text: str) -> None:
    escaped = log.escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not any(character < " " for character in escaped)


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize(
    "secret",
    [
        HANDLE,
        "Bearer " + JWT,
        "bearer  " + HANDLE,
        "Bearer\tabcdefgh12345",
        "Bearer%20abcdefgh12345",
        BASIC,
        BASIC.upper(),
        JWT,
    ]
    + [f"https://x/y?a=b&token={value}" for value in (HANDLE, "abcdefgh12345", "%72pzt%5Fabc")],
)
def test_r126_credentials_are_struck_out_wherever_they_stand(
    configure: Configure, log_format: Literal["console", "json"], secret: str
) -> None:
    stream = configure(log_format)
    logger = structlog.get_logger("one")

    def fail() -> None:
        raise ValueError(f"cannot use {secret}\n{secret}") from KeyError(secret)

    try:
        fail()
    except ValueError as error:
        logger.exception("it failed")
        logger.warning("it failed", error=error)
    event = f"event {secret}"
    logger.info(event, value=secret, nested={"list": [secret, {secret}]}, raw=secret.encode())
    logging.getLogger("two").info("call %r", [("authorization", secret)])
    text = stream.getvalue()
    assert text.count("[redacted]") >= 9
    assert secret[-10:] not in text


@pytest.mark.parametrize(
    "text",
    [
        "the method demands Basic or Bearer",
        "rpz_auth_server.main",
        "send 'Bearer <access token>' or 'Basic <App ID:API token>'",
        "token=",
        "a Basic problem: x",
        "",
    ],
)
def test_text_without_credentials_stays_as_it_is(text: str) -> None:
    assert log.redact(text) == text


def test_what_is_struck_out_still_tells_its_kind() -> None:
    assert log.redact(f"a {HANDLE} b") == "a rpzr_[redacted] b"
    assert log.redact(f"Bearer {HANDLE}, x") == "Bearer [redacted], x"
    assert log.redact(f"/p?token={HANDLE}&q=1") == "/p?token=[redacted]&q=1"


@given(st.text(), st.sampled_from(["rpzc_", "rpzr_", "rpzt_", "rpzs_"]), st.text())
def test_r126_handle_is_found_in_any_surroundings(before: str, prefix: str, after: str) -> None:
    body = "Q0" * 32
    assert body not in log.redact(before + prefix + body + after)


def test_a124_local_variables_do_not_stand_in_tracebacks(configure: Configure) -> None:
    stream = configure()

    def fail(password: str) -> None:
        raise ValueError(len(password))

    words = ["hunter2"] * 2
    try:
        fail("-".join(words))
    except ValueError:
        structlog.get_logger("one").exception("it failed")
    (record,) = records(stream)
    assert "ValueError: 15" in record["exception"]
    assert "hunter2-hunter2" not in stream.getvalue()


def test_r126_record_that_cannot_be_written_does_not_spill_its_arguments(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = configure()
    logging.getLogger("two").error("%d", "hunter2")
    assert stream.getvalue() == "a log record of two could not be written: TypeError\n"
    assert capsys.readouterr().err == ""


def test_nobody_fails_when_the_log_is_full_or_closed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = configure()
    monkeypatch.setattr(stream, "write", full)
    structlog.get_logger("a").error("lost")
    monkeypatch.undo()
    stream.close()
    logging.getLogger("b").error("lost too")
