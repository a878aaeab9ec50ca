"""Everything that can go wrong, in one tree.

ExportError
├── SettingsError          start-up: a setting is missing or wrong; the process ends with exit code 78
├── Unavailable            a dependency does not answer; names the setting; retried with backoff
├── RecoveryFailed         a worker's tables are not what their changelogs say; it ends with exit code 75 and recovers when it starts again
├── FetchProcessEnded      a process that a worker downloads with is gone; the worker ends, and what was under way is downloaded again
├── RequestRejected        the SQS message is wrong: dead letter, and ExportRejected if it carried a usable token
├── PlanError              the files of a job cannot be listed: the job ends as ExportPlanFailed
├── TransferError          one file could not be read or written; says whether a retry can help
│   └── RangeRefused       the source does not send a part of it; the whole is asked for then
└── CallbackError          Step Functions did not accept an answer
    ├── CallbackRefused    for good: TaskTimedOut, TaskDoesNotExist, InvalidToken
    ├── CallbackInvalid    InvalidOutput: the payload is wrong, not the token
    ├── CallbackThrottled  later: throttling, 5xx, timeouts, connection
    └── CallbackDenied     AccessDenied, credentials, wrong region: an operator must act, the token is kept
"""


class ExportError(Exception):
    """Base of all failures that this service names. `exit_code` is a worker's that ends with one."""

    exit_code = 1


class SettingsError(ExportError):
    exit_code = 78


class Unavailable(ExportError):
    """A dependency cannot be reached.

    Args:
        what: `Kafka`, `SQS`, …
        setting: the setting that says where it is, e.g. `EXPORT_KAFKA_BOOTSTRAP_SERVERS`.
        detail: address and error, without secrets.
    """

    def __init__(self, what: str, setting: str, detail: str) -> None:
        super().__init__(f"{what} does not answer ({detail}); check {setting}")
        self.what, self.setting, self.detail = what, setting, detail


class RecoveryFailed(ExportError):
    exit_code = 75


class FetchProcessEnded(ExportError):
    pass


class RequestRejected(ExportError):
    """Says field, value and way out. `job_id` and `token` are set when the message carried usable ones."""

    def __init__(self, reason: str, *, job_id: str | None = None, token: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.job_id, self.token = reason, job_id, token


class PlanError(ExportError):
    pass


class TransferError(ExportError):
    """One transfer failed.

    Args:
        error: the failure class that people and metrics see, e.g. `HttpNotFound`, `Timeout`, `ChecksumMismatch`.
        message: one sentence without URL query.
        retryable: whether the same request may work later.
        retry_after: seconds that the source asked us to wait (Retry-After), if it did.
        busy: the source's host asks for fewer requests (429 or 503), and not only for this file.

    Attributes:
        kept: bytes that the next try need not ask for.
        status: of the HTTP answer that said so, if one did.
    """

    kept = 0
    status: int | None = None

    def __init__(self, error: str, message: str, *, retryable: bool, retry_after: float | None = None, busy: bool = False) -> None:
        super().__init__(f"{error}: {message}")
        self.error, self.message, self.retryable, self.retry_after = error, message, retryable, retry_after
        self.busy = busy


class RangeRefused(TransferError):
    """A part of a file was asked for, and what came is not that part of that version."""

    def __init__(self, message: str) -> None:
        super().__init__("RangeRefused", message, retryable=True)


class CallbackError(ExportError):
    """`code` is AWS's error name, e.g. `TaskDoesNotExist`."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


class CallbackRefused(CallbackError):
    pass


class CallbackInvalid(CallbackError):
    pass


class CallbackThrottled(CallbackError):
    pass


class CallbackDenied(CallbackError):
    pass
