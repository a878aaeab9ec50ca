"""Every setting, with its meaning. Environment variables `EXPORT_<GROUP>_<NAME>`; AWS's own variables for AWS.

`load()` reads and checks all of it at start and raises `SettingsError` with one sentence per mistake.
A secret may be given as a file: `EXPORT_KAFKA_SASL_PASSWORD_FILE=/run/secrets/kafka`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from export_service.addresses import Network, parse_networks
from export_service.failures import SettingsError
from export_service.prefixes import parse_prefixes
from export_service.redaction import without_secrets

_HOST_NAME = re.compile(r"[a-z0-9._-]+")

ROLES = ("connector", "plan", "download", "tally", "callback", "snapshot", "watch")
Role = Literal["connector", "plan", "download", "tally", "callback", "snapshot", "watch"]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(Group):
    bootstrap_servers: Annotated[str, Field(description="host:port, comma separated")] = "localhost:9092"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Field(description="how brokers are talked to")
    ] = "PLAINTEXT"
    ssl_cafile: Annotated[Path | None, Field(description="CA bundle for SSL; the system's when unset")] = None
    sasl_mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], Field(description="with a SASL protocol")] = (
        "SCRAM-SHA-512"
    )
    sasl_username: Annotated[str | None, Field(description="needed with a SASL protocol")] = None
    sasl_password: Annotated[SecretStr | None, Field(description="needed with a SASL protocol")] = None
    replication_factor: Annotated[int, Field(ge=1, description="for topics that `topics declare` creates")] = 1
    session_timeout_seconds: Annotated[
        float, Field(ge=6, description="a worker that is silent for this long loses its partitions to others")
    ] = 45
    group_instance_id: Annotated[
        str | None,
        Field(
            pattern=r"^[a-zA-Z0-9._-]{1,200}$",
            description="name of this worker in its consumer groups: it keeps its partitions over a restart; unset: a new member each time",
        ),
    ] = None
    request_timeout_seconds: Annotated[
        float, Field(gt=0, description="an unconfirmed record older than this stops the worker, which then replays")
    ] = 60


class Topics(Group):
    prefix: Annotated[str, Field(description="of the name of every topic but the changelogs")] = "export."
    partitions: Annotated[int, Field(ge=1, le=1000, description="of every state topic; fixed once chosen")] = 4
    task_partitions: Annotated[int, Field(ge=1, le=10000, description="of `tasks`; may grow")] = 8
    declare: Annotated[bool, Field(description="create missing topics at start; production uses `topics declare`")] = False


class Queue(Group):
    url: Annotated[str | None, Field(description="the SQS queue to take requests from")] = None
    receivers: Annotated[int, Field(ge=1, le=64, description="concurrent long polls")] = 2
    wait_seconds: Annotated[int, Field(ge=0, le=20, description="long-poll time")] = 20
    max_in_flight: Annotated[
        int, Field(ge=1, description="messages in work, up to their delete; up to 10 a receiver wait besides")
    ] = 100
    max_receives: Annotated[
        int,
        Field(
            ge=2, description="a message that fails on this receive, or comes after it, is a dead letter; less than the queue's own"
        ),
    ] = 8


class Table(Group):
    name: Annotated[str, Field(description="the DynamoDB table of ledger and snapshots")] = "export-jobs"
    ttl_days: Annotated[int, Field(ge=1, description="items expire this long after their last change")] = 400


class Plan(Group):
    file_root: Annotated[Path | None, Field(description="file:// manifests are read only below this folder; unset: refused")] = None
    max_files: Annotated[int, Field(ge=1, description="files a job may have")] = 5_000_000


class Download(Group):
    concurrency: Annotated[int, Field(ge=1, description="files at a time in one worker, at most")] = 64
    adaptive: Annotated[
        bool, Field(description="fewer files at a time of a host that is not quicker for more; false: as many as the limits allow")
    ] = True
    host_concurrency: Annotated[int, Field(ge=0, description="files at a time of one host in one worker, at most; 0: no limit")] = 0
    user_concurrency: Annotated[int, Field(ge=0, description="files at a time of one user in one worker, at most; 0: no limit")] = 0
    busy_seconds: Annotated[
        float, Field(gt=0, description="a host that answered nothing but 429 or 503 for this long is given up: its files fail")
    ] = 300
    processes: Annotated[
        int, Field(ge=1, description="processes of a worker that share these files: one for a processor to spare")
    ] = 1
    connections: Annotated[
        int, Field(ge=1, description="for one large file, at most, as far as `concurrency` has room; 1: always one")
    ] = 16
    upload_mib: Annotated[
        int,
        Field(
            ge=16, description="MiB of a worker's memory, at most, for what waits to be sent to S3: parts of 8 MiB, or a small file"
        ),
    ] = 64
    attempts: Annotated[
        int, Field(ge=1, description="tries of one file, the first included; not those that get 16 MiB further with a large one")
    ] = 4
    timeout_seconds: Annotated[float, Field(gt=0, description="for one try of one file, or for 16 MiB of a large one")] = 300
    stall_seconds: Annotated[float, Field(gt=0, description="without a byte: the try is given up")] = 30
    connect_seconds: Annotated[float, Field(gt=0, description="to open a connection to a file's host")] = 10
    max_bytes: Annotated[int, Field(gt=0, description="of one file")] = 5 * 1024**4
    allowed_networks: Annotated[
        Annotated[tuple[Network, ...], NoDecode],
        Field(description="CIDRs that http(s) files may come from besides public addresses, comma separated"),
    ] = ()
    allowed_urls: Annotated[
        Annotated[tuple[str, ...], NoDecode],
        Field(description="URL prefixes that files and manifests may come from, comma separated; unset: any"),
    ] = ()
    publish_seconds: Annotated[float, Field(gt=0, description="outcomes wait at most this long to be published")] = 0.5

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        return parse_networks(value) if isinstance(value, str) else value

    @field_validator("allowed_urls", mode="before")
    @classmethod
    def _urls(cls, value: Any) -> Any:
        return parse_prefixes(value) if isinstance(value, str) else value


class Sweep(Group):
    after_hours: Annotated[
        float, Field(gt=0, description="`sweep` takes what nobody has written to for so long for a dead worker's")
    ] = 24


class Tally(Group):
    store: Annotated[
        str, Field(pattern=r"^(memory|rocksdb)://", description="where the tables are kept: memory://, or rocksdb:// in state_dir")
    ] = "memory://"
    standby_replicas: Annotated[
        int, Field(ge=0, le=1, description="1: another worker follows each table on its disk, and takes over with little to read")
    ] = 0
    snapshot_seconds: Annotated[
        float, Field(ge=0, description="least record time between two snapshots of a job that moves; one more when it stands still")
    ] = 0.5


class Callback(Group):
    cause: Annotated[Literal["json", "text"], Field(description="form of the failure's cause")] = "json"
    concurrency: Annotated[int, Field(ge=1, description="answers under way at a time")] = 32
    per_second: Annotated[
        float,
        Field(gt=0, description="calls of one worker; AWS refills 500 a second (300 in smaller Regions) for the whole account"),
    ] = 200
    backoff_seconds: Annotated[float, Field(gt=0, description="first pause after a throttled answer; doubles, with jitter")] = 0.5
    max_backoff_seconds: Annotated[float, Field(gt=0, description="the longest such pause")] = 60


class Watch(Group):
    heartbeat_seconds: Annotated[
        float,
        Field(gt=0, description="between two heartbeats of a job whose message has no heartbeatSeconds; else a third of those"),
    ] = 60
    stuck_seconds: Annotated[float, Field(gt=0, description="a job that does not move for this long is named in the log")] = 900
    concurrency: Annotated[int, Field(ge=1, description="heartbeats under way at a time")] = 16


class Worker(Group):
    drain_seconds: Annotated[float, Field(gt=0, description="at SIGTERM: time to finish what is under way")] = 20
    state_dir: Annotated[Path, Field(description="RocksDB stores and Faust's files")] = Path(".export-service/worker")
    ack_window: Annotated[int, Field(ge=1, description="records under way per agent")] = 1000
    core_dumps: Annotated[bool, Field(description="allow core files and debuggers, which show task tokens and credentials")] = False
    recovery_stall_seconds: Annotated[
        float,
        Field(gt=0, description="a recovery of tables that makes no progress for this long ends the worker with exit code 75"),
    ] = 120


class Metrics(Group):
    port: Annotated[int | None, Field(ge=0, le=65535, description="serves /metrics for Prometheus; unset: not served")] = None
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    lag_seconds: Annotated[float, Field(gt=0, description="between two looks at the broker's offsets and the queue's numbers")] = 10
    stall_seconds: Annotated[
        float, Field(gt=0, description="/readyz fails when a partition with records to read has not moved for so long")
    ] = 300
    hosts: Annotated[
        Annotated[tuple[str, ...], NoDecode],
        Field(description="domains that downloads are counted by, comma separated; all others by their scheme"),
    ] = ()
    emf_seconds: Annotated[
        float | None, Field(ge=1, description="writes CloudWatch's embedded metric format to stdout so often; unset: never")
    ] = None
    emf_namespace: Annotated[str, Field(min_length=1, description="of those metrics in CloudWatch")] = "ExportService"

    @field_validator("hosts", mode="before")
    @classmethod
    def _hosts(cls, value: Any) -> Any:
        return tuple(each.strip().lower() for each in value.split(",") if each.strip()) if isinstance(value, str) else value


class Traces(Group):
    enabled: Annotated[
        bool, Field(description="send spans by OTLP, where OpenTelemetry's OTEL_… variables say; needs export-service[otel]")
    ] = False


class Console(Group):
    host: Annotated[str, Field(min_length=1, description="address that the console listens on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0: a free one")] = 8780
    names: Annotated[
        Annotated[tuple[str, ...], NoDecode],
        Field(description="host names that browsers reach it by, besides localhost and IP addresses, comma separated"),
    ] = ()
    token: Annotated[
        SecretStr | None,
        Field(
            description="who signs in with it may cancel, redrive and replay; 16 characters or more; unset: the console only shows"
        ),
    ] = None
    jobs: Annotated[int, Field(ge=100, description="jobs kept in memory, those that moved last; others are found by id")] = 20_000

    @field_validator("names", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        names = tuple(part.strip().lower() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        if isinstance(names, tuple) and any(not _HOST_NAME.fullmatch(name) for name in names):
            raise ValueError("give host names, without scheme, port and path, as console.example.com")
        return names

    @field_validator("token")
    @classmethod
    def _token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("it must have 16 characters or more")
        return value


class Log(Group):
    level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="the least that is written")] = "info"
    format: Annotated[Literal["auto", "json", "console"], Field(description="auto: console on a TTY, else json")] = "auto"
    task_share: Annotated[
        float, Field(ge=0, le=1, description="share of tasks that have a line each when they end; 0: none, 1: all")
    ] = 0


class Aws(BaseSettings):
    """AWS's own variables. Credentials are found by boto's chain (environment, profile, role); they are not read here."""

    model_config = SettingsConfigDict(env_prefix="AWS_", extra="ignore", frozen=True)
    region: Annotated[str | None, Field(description="of queue, table and state machine")] = None
    default_region: Annotated[str | None, Field(description="the SDKs' other name for it; without either us-east-1")] = None
    endpoint: Annotated[str | None, Field(description="one endpoint for all services (LocalStack, moto); unset: AWS itself")] = None
    endpoint_url: Annotated[str | None, Field(description="the SDKs' own name for the same; it wins over AWS_ENDPOINT")] = None
    endpoint_url_sqs: Annotated[str | None, Field(description="of SQS alone; wins over both")] = None
    endpoint_url_sfn: Annotated[str | None, Field(description="of Step Functions alone")] = None
    endpoint_url_dynamodb: Annotated[str | None, Field(description="of DynamoDB alone")] = None
    endpoint_url_s3: Annotated[str | None, Field(description="of S3 alone")] = None

    def endpoint_for(self, service: str) -> str | None:
        """The endpoint of `sqs`, `stepfunctions`, `dynamodb` or `s3`; None is AWS itself. The service's own setting wins."""
        own = "sfn" if service == "stepfunctions" else service
        return getattr(self, f"endpoint_url_{own}") or self.endpoint_url or self.endpoint

    @property
    def region_name(self) -> str:
        return self.region or self.default_region or "us-east-1"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="EXPORT_", env_nested_delimiter="_", env_nested_max_split=1, extra="ignore", frozen=True
    )
    app_id: Annotated[str, Field(description="prefix of the consumer groups, one group a role")] = "export"
    catalog: Annotated[
        str | None, Field(description="URI template of a job's manifest, e.g. s3://exports/{exportId}/manifest.jsonl")
    ] = None
    destination: Annotated[str, Field(description="URI template of a job's destination folder")] = "file:./exports/{jobId}/"
    destinations: Annotated[
        Annotated[tuple[str, ...], NoDecode],
        Field(description="prefixes a message's own destination may have, comma separated"),
    ] = ("s3://",)
    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    queue: Queue = Queue()
    table: Table = Table()
    plan: Plan = Plan()
    download: Download = Download()
    sweep: Sweep = Sweep()
    tally: Tally = Tally()
    callback: Callback = Callback()
    watch: Watch = Watch()
    worker: Worker = Worker()
    metrics: Metrics = Metrics()
    traces: Traces = Traces()
    console: Console = Console()
    log: Log = Log()
    aws: Aws = Field(default_factory=Aws)

    @field_validator("destinations", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value

    @field_validator("catalog")
    @classmethod
    def _catalog(cls, value: str | None) -> str | None:
        if not value:
            return None
        if not value.endswith((".jsonl", ".csv")):
            raise ValueError("must end in .jsonl or .csv, which says the manifest's format")
        return value

    @model_validator(mode="after")
    def _standby(self) -> "Settings":
        if self.tally.standby_replicas and not self.tally.store.startswith("rocksdb:"):
            raise ValueError("TALLY_STANDBY_REPLICAS needs TALLY_STORE=rocksdb://: a table in memory forgets what it followed")
        return self

    @model_validator(mode="after")
    def _sasl(self) -> "Settings":
        if self.kafka.security_protocol.startswith("SASL") and not (self.kafka.sasl_username and self.kafka.sasl_password):
            raise ValueError("KAFKA_SECURITY_PROTOCOL is SASL: set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or _FILE) too")
        return self


def _read_secret_files() -> None:
    """`EXPORT_X_FILE=path` sets `EXPORT_X` to the file's content; the way containers hand out secrets."""
    for name, path in list(os.environ.items()):
        if name.startswith("EXPORT_") and name.endswith("_FILE") and name.removesuffix("_FILE") not in os.environ:
            try:
                os.environ[name.removesuffix("_FILE")] = Path(path).read_text().strip()
                del os.environ[name]
            except OSError as error:
                raise SettingsError(f"{name}={path}: {error.strerror}") from None


def load(**overrides: object) -> Settings:
    """Settings from the environment. Raises SettingsError: each mistake names the variable, the value and what is wrong."""
    _read_secret_files()
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            name = "EXPORT_" + "_".join(str(part) for part in mistake["loc"]).upper()
            # A name that is not known may be a password's with a slip in it; a group's input is all of it.
            shown = (
                isinstance(mistake["input"], str)
                and mistake["type"] != "extra_forbidden"
                and not any(word in name for word in ("PASSWORD", "TOKEN"))
            )
            given = f"={mistake['input']!r}" if shown else ""
            lines.append(without_secrets(f"{name.rstrip('_')}{given}: {mistake['msg'].removeprefix('Value error, ')}"))
        raise SettingsError("\n".join(lines)) from None
