"""Settings: from the environment, from a running stack, from the caller; and what is said when one is missing."""

import json
import os
import stat
from pathlib import Path

import pytest

from config.settings import (
    RUN_FILE,
    SECRET_BYTES_MIN,
    Settings,
    SettingsError,
    ensure_secret,
    load,
    read_run,
    write_run,
)

URL = "postgresql+psycopg://u@localhost/p"


def running(data_dir: Path, **changes: object) -> None:
    """Write what a stack of this very process would."""
    write_run(
        data_dir, {"database_url": URL, "redis_url": "redis://r", "kafka_url": "k:1", "pid": os.getpid()} | changes
    )


def test_defaults_need_no_environment(tmp_path: Path) -> None:
    """Everything but the addresses has a value; the addresses are asked for when they are needed."""
    settings = load(data_dir=tmp_path)
    assert (settings.events_topic, settings.batch_max, settings.log_format) == ("points.events", 500, "console")
    assert (settings.database_url, settings.redis_url, settings.kafka_url) == (None, None, None)


def test_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field is POINTGUARD_<FIELD>; what has no prefix is not ours."""
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", URL)
    monkeypatch.setenv("POINTGUARD_BATCH_MAX", "7")
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://other")
    settings = load()
    assert (settings.database_url, settings.batch_max, settings.data_dir) == (URL, 7, tmp_path)
    assert settings.redis_url is None


def test_the_caller_wins_over_the_environment_over_a_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sources, nearest first; an override of None is none."""
    running(tmp_path, log_id="life-1", trust_end_offsets=False)
    monkeypatch.setenv("POINTGUARD_REDIS_URL", "redis://environment")
    settings = load(data_dir=tmp_path, kafka_url="caller:1", redis_url=None)
    assert (settings.kafka_url, settings.redis_url, settings.database_url) == ("caller:1", "redis://environment", URL)
    assert (settings.log_id, settings.trust_end_offsets) == ("life-1", False)


def test_a_stack_that_has_ended_is_not_asked(tmp_path: Path) -> None:
    """run.json counts while its process lives; a damaged or foreign one counts as none."""
    running(tmp_path, pid=2**22 + 1)
    assert read_run(tmp_path) == {}
    for content in ("", "[]", "{", json.dumps({"pid": "12"}), json.dumps({"database_url": URL})):
        (tmp_path / RUN_FILE).write_text(content)
        assert read_run(tmp_path) == {}
    assert load(data_dir=tmp_path).database_url is None


def test_only_what_settings_know_is_taken_from_a_running_stack(tmp_path: Path) -> None:
    """A run.json cannot set anything but addresses, the log's name and whether its ends are true."""
    running(tmp_path, batch_max=1, secret_file="/elsewhere")
    settings = load(data_dir=tmp_path)
    assert (settings.batch_max, settings.secret_file) == (500, None)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch_max", "0", "greater than or equal to 1"),
        ("linger_ms", "soon", "valid number"),
        ("log_level", "loud", "'debug'"),
        ("database_url", "mysql://user:hush@db/name", "postgresql\\+psycopg://user:password@host:5432/name"),
        ("redis_url", "http://cache", "redis://host:6379/0"),
        ("kafka_url", "http://kafka:9092", "host:9092,other:9092"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and what it takes, and does not repeat what may hold a password."""
    monkeypatch.setenv(f"POINTGUARD_{name.upper()}", value)
    with pytest.raises(SettingsError, match=rf"POINTGUARD_{name.upper()} cannot be used: .*{said}") as caught:
        load()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["database_url", "redis_url", "kafka_url"])
def test_a_missing_address_tells_what_to_do(name: str) -> None:
    """Asked for without a value: the message names the variable, the command and an example."""
    with pytest.raises(SettingsError, match=rf"POINTGUARD_{name.upper()} is not set: .*pointguard up"):
        Settings(**{name: ""}).required(name)  # type: ignore[arg-type]  # one of the three


def test_settings_cannot_be_changed() -> None:
    """A process starts with one set of settings and keeps it."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().batch_max = 1  # type: ignore[misc]  # that it is frozen is the point


def test_the_secret_comes_from_a_file(tmp_path: Path) -> None:
    """Given, or made at the first start; a line end does not count."""
    path = tmp_path / "mine"
    path.write_bytes(b"s" * SECRET_BYTES_MIN + b"\n")
    assert Settings(data_dir=tmp_path, secret_file=path).secret() == b"s" * SECRET_BYTES_MIN
    ensure_secret(tmp_path)
    made = Settings(data_dir=tmp_path).secret()
    assert len(made) >= SECRET_BYTES_MIN
    ensure_secret(tmp_path)
    assert Settings(data_dir=tmp_path).secret() == made


def test_a_secret_that_is_missing_or_short(tmp_path: Path) -> None:
    """Nothing starts without it, and the message never shows it."""
    with pytest.raises(SettingsError, match=r"secret_file: cannot read .*POINTGUARD_SECRET_FILE"):
        Settings(data_dir=tmp_path).secret()
    (tmp_path / "secret").write_text("too short")
    with pytest.raises(SettingsError, match=r"holds 9 bytes; at least 32") as refused:
        Settings(data_dir=tmp_path).secret()
    assert "too short" not in str(refused.value)


def test_what_is_written_is_private(tmp_path: Path) -> None:
    """Secret and run.json (it holds passwords) are readable by their user only, and leave no temporary file."""
    data_dir = tmp_path / "data"
    ensure_secret(data_dir)
    running(data_dir)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir()}
    assert modes == {"secret": 0o600, RUN_FILE: 0o600}


def test_every_setting_can_be_set_and_has_a_meaning() -> None:
    """A field without a description has a name that says it all: topics, and how logs look."""
    silent = {name for name, field in Settings.model_fields.items() if not field.description}
    assert silent <= {name for name in Settings.model_fields if name.endswith("_topic") or name.startswith("log_")}


def test_keys_of_anchors_are_read_from_their_files(tmp_path: Path) -> None:
    """The relay's own, and the public ones that are believed, past ones too; without a file there are none."""
    settings = load(data_dir=tmp_path)
    assert (settings.anchor_key(), settings.anchor_public_keys()) == (None, ())
    (tmp_path / "anchor.key").write_text("ab" * 32 + "\n")
    public = tmp_path / "keys"
    public.write_text("01" * 32 + "\n" + "02" * 32 + "\n")
    settings = load(data_dir=tmp_path, anchor_public_file=public)
    assert settings.anchor_key() == b"\xab" * 32
    assert settings.anchor_public_keys() == (b"\x01" * 32, b"\x02" * 32)


@pytest.mark.parametrize("content", [None, "", "xyz", "ab" * 31])
def test_a_key_file_of_no_use_is_named(tmp_path: Path, content: str | None) -> None:
    """One that was given must be there and hold keys; otherwise nothing would be signed, in silence."""
    path = tmp_path / "given"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"anchor_key_file.*given"):
        load(data_dir=tmp_path, anchor_key_file=path).anchor_key()
    with pytest.raises(SettingsError, match=r"anchor_public_file.*given"):
        load(data_dir=tmp_path, anchor_public_file=path).anchor_public_keys()
