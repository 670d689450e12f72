"""Where the services are and how this process runs: the only reader of the environment.

Every setting is an environment variable with the prefix ``POINTGUARD_``. A secret is given as a file
(``POINTGUARD_SECRET_FILE``), so that it stands in no process list. What is not given comes from ``run.json`` in the
data directory, which ``pointguard up`` writes while it runs, so that a second terminal finds the same services.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

RUN_FILE = "run.json"
ADDRESSES = {
    "database_url": (r"postgresql\+psycopg://\S+", "postgresql+psycopg://user:password@host:5432/name"),
    "redis_url": (r"(rediss?|unix)://\S+", "redis://host:6379/0"),
    "kafka_url": (r"[\w.-]+:\d+(,[\w.-]+:\d+)*", "host:9092,other:9092"),
}
RUN_FIELDS = ("database_url", "redis_url", "kafka_url", "log_id", "trust_end_offsets")
SECRET_BYTES_MIN = 32
KEY_BYTES = 32
ANCHOR_KEY = "anchor.key"
ANCHOR_PUBLIC = "anchor.pub"


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names it and says what to do."""


class Settings(BaseSettings):
    """What a process needs to know before it starts; each field is ``POINTGUARD_<FIELD>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="POINTGUARD_", frozen=True, extra="ignore")

    data: Path | None = Field(None, description="folder of labelled streams for `python -m bench.quality`")
    data_dir: Path = Field(Path(".pointguard"), description="embedded services, logs, run.json and secrets live here")
    database_url: str | None = Field(
        None, description="PostgreSQL, as postgresql+psycopg://user:password@host:port/name"
    )
    redis_url: str | None = Field(None, description="Redis or Valkey, as redis://host:port/0")
    kafka_url: str | None = Field(None, description="Kafka bootstrap servers, as host:port[,host:port]")
    secret_file: Path | None = Field(None, description="file with 32 random bytes or more, the root of all keys")
    log_id: str | None = Field(None, description="name of this life of the Kafka log; default: the cluster's id")
    trust_end_offsets: bool | None = Field(None, description="false for the embedded broker: its are wrong")
    events_topic: str = "points.events"
    requests_topic: str = "points.requests"
    decisions_topic: str = "points.decisions"
    alerts_topic: str = "points.alerts"
    anchors_topic: str = Field("points.anchors", description="signed heads of the audit chains; nobody may delete here")
    anchor_file: Path | None = Field(
        None, description="file that the relay appends anchors to (default: anchors.jsonl in the data directory)"
    )
    anchor_key_file: Path | None = Field(
        None, description="the relay's ed25519 key, 32 bytes as hexadecimal; not on the database's host"
    )
    anchor_public_file: Path | None = Field(
        None, description="public keys that `verify` believes anchors of, one a line (default: of the key file)"
    )
    anchor_seconds: float = Field(60.0, ge=1, le=3600, description="time between two anchors")
    group: str = Field("pointguard", description="Kafka consumer group; the topic is added to it")
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-0", description="static member of the group"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of topics that `up` creates")
    replication: int = Field(1, ge=1, le=9, description="replication factor of topics that `up` creates")
    batch_max: int = Field(500, ge=1, le=5000, description="records in one transaction, about")
    linger_ms: float = Field(20.0, ge=0, le=1000, description="wait this long to fill a batch of facts")
    linger_requests_ms: float = Field(2.0, ge=0, le=1000, description="the same for requests, where a customer waits")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics; 0 takes a free one and logs it")
    metrics_host: str = Field("127.0.0.1", description="address of /metrics")
    session_timeout: float = Field(10.0, ge=1, le=300, description="seconds until Kafka takes a silent worker for dead")
    stall_seconds: float = Field(60.0, ge=5, description="without progress for so long, a worker with work exits")
    rss_limit_mb: int = Field(2048, ge=128, description="resident memory at which a worker exits and is restarted")
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("database_url", "redis_url", "kafka_url", mode="before")
    @classmethod
    def _address(cls, value: object, info: ValidationInfo) -> object:
        """An empty address counts as none; another must look like one."""
        if value is None or value == "":
            return None
        pattern, example = ADDRESSES[str(info.field_name)]
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"an address like {example} is needed")
        return value

    def required(self, name: Literal["database_url", "redis_url", "kafka_url"]) -> str:
        """The URL called `name`; SettingsError with the remedy when there is none."""
        value = getattr(self, name)
        if not value:
            raise SettingsError(
                f"POINTGUARD_{name.upper()} is not set: start the services with `pointguard up`, or set it to"
                f" {ADDRESSES[name][1]}"
            )
        return str(value)

    def secret(self) -> bytes:
        """The root secret, from its file; SettingsError when it is missing or too short."""
        path = self.secret_file or self.data_dir / "secret"
        try:
            value = path.read_bytes().strip()
        except OSError as error:
            raise SettingsError(
                f"secret_file: cannot read {path} ({error.strerror}): set POINTGUARD_SECRET_FILE to a file with"
                f" {SECRET_BYTES_MIN} random bytes or more, readable by this user only"
            ) from error
        if len(value) < SECRET_BYTES_MIN:
            raise SettingsError(f"secret_file: {path} holds {len(value)} bytes; at least {SECRET_BYTES_MIN} are needed")
        return value

    @property
    def anchors_path(self) -> Path:
        """The file that anchors are appended to."""
        return self.anchor_file or self.data_dir / "anchors.jsonl"

    def anchor_key(self) -> bytes | None:
        """The raw key that signs anchors, None where there is none; SettingsError for a file of no use."""
        path = self.anchor_key_file or self.data_dir / ANCHOR_KEY
        if self.anchor_key_file is None and not path.exists():
            return None
        return _keys_in(path, "anchor_key_file")[0]

    def anchor_public_keys(self) -> tuple[bytes, ...]:
        """The raw public keys whose anchors are believed, none if not told; SettingsError for a file of no use."""
        path = self.anchor_public_file or self.data_dir / ANCHOR_PUBLIC
        if self.anchor_public_file is None and not path.exists():
            return ()
        return tuple(_keys_in(path, "anchor_public_file"))


def load(**overrides: Any) -> Settings:
    """Settings from the environment, completed from ``run.json`` of a running stack; `overrides` win over both."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        # What was given is not repeated: an address holds a password.
        raise SettingsError(f"POINTGUARD_{name.upper()} cannot be used: {first['msg']}") from None
    running = read_run(settings.data_dir)
    fill = {
        name: running[name] for name in RUN_FIELDS if getattr(settings, name) is None and running.get(name) is not None
    }
    return settings.model_copy(update=fill)


def read_run(data_dir: Path) -> dict[str, Any]:
    """What ``run.json`` says of the running stack, or nothing when no stack runs there."""
    try:
        running = json.loads((data_dir / RUN_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return running if isinstance(running, dict) and _alive(running.get("pid")) else {}


def write_run(data_dir: Path, running: dict[str, Any]) -> None:
    """Tell other processes of this machine where the running stack is; readable by this user only."""
    write_private(data_dir / RUN_FILE, json.dumps(running, indent=1).encode())


def ensure_secret(data_dir: Path) -> None:
    """Make the root secret of an embedded stack at its first start; nothing is ever overwritten."""
    path = data_dir / "secret"
    if not path.exists():
        write_private(path, secrets.token_hex(SECRET_BYTES_MIN).encode())


def _keys_in(path: Path, setting: str) -> list[bytes]:
    try:
        keys = [bytes.fromhex(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{setting}: cannot use {path} ({error}): it holds keys as hexadecimal, one a line"
        ) from None
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise SettingsError(f"{setting}: {path} must hold ed25519 keys of {KEY_BYTES} bytes as hexadecimal, one a line")
    return keys


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user may read, wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
