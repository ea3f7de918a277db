import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from jobtrack._proto import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_REDIS: _ClassVar[Source]
    SOURCE_MEMORY: _ClassVar[Source]

class Ignored(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IGNORED_UNSPECIFIED: _ClassVar[Ignored]
    IGNORED_OLDER_SEQUENCE: _ClassVar[Ignored]
    IGNORED_LOWER_PROGRESS: _ClassVar[Ignored]

class View(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_UNSPECIFIED: _ClassVar[View]
    VIEW_BASIC: _ClassVar[View]
    VIEW_FULL: _ClassVar[View]

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_UNSPECIFIED: _ClassVar[Order]
    ORDER_NEWEST: _ClassVar[Order]
    ORDER_OLDEST: _ClassVar[Order]

class Event(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_UNSPECIFIED: _ClassVar[Event]
    EVENT_SNAPSHOT: _ClassVar[Event]
    EVENT_UPDATE: _ClassVar[Event]
    EVENT_BOOKMARK: _ClassVar[Event]
    EVENT_REMOVED: _ClassVar[Event]

class Removal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REMOVAL_UNSPECIFIED: _ClassVar[Removal]
    REMOVAL_DELETED: _ClassVar[Removal]
    REMOVAL_EXPIRED: _ClassVar[Removal]
SOURCE_UNSPECIFIED: Source
SOURCE_REDIS: Source
SOURCE_MEMORY: Source
IGNORED_UNSPECIFIED: Ignored
IGNORED_OLDER_SEQUENCE: Ignored
IGNORED_LOWER_PROGRESS: Ignored
VIEW_UNSPECIFIED: View
VIEW_BASIC: View
VIEW_FULL: View
ORDER_UNSPECIFIED: Order
ORDER_NEWEST: Order
ORDER_OLDEST: Order
EVENT_UNSPECIFIED: Event
EVENT_SNAPSHOT: Event
EVENT_UPDATE: Event
EVENT_BOOKMARK: Event
EVENT_REMOVED: Event
REMOVAL_UNSPECIFIED: Removal
REMOVAL_DELETED: Removal
REMOVAL_EXPIRED: Removal

class JobFilter(_message.Message):
    __slots__ = ("states", "kind", "owner", "labels", "created_after", "created_before", "liveness", "worker", "id_prefix", "updated_after")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIVENESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_job_pb2.Job.State]
    kind: str
    owner: str
    labels: _containers.ScalarMap[str, str]
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    liveness: _containers.RepeatedScalarFieldContainer[_job_pb2.Liveness]
    worker: str
    id_prefix: str
    updated_after: _timestamp_pb2.Timestamp
    def __init__(self, states: _Optional[_Iterable[_Union[_job_pb2.Job.State, str]]] = ..., kind: _Optional[str] = ..., owner: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., liveness: _Optional[_Iterable[_Union[_job_pb2.Liveness, str]]] = ..., worker: _Optional[str] = ..., id_prefix: _Optional[str] = ..., updated_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("job_id", "request_id", "kind", "owner", "labels", "metadata", "lease_timeout", "fail_when_lost", "retention", "title", "start_timeout")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LEASE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    FAIL_WHEN_LOST_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    START_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    request_id: str
    kind: str
    owner: str
    labels: _containers.ScalarMap[str, str]
    metadata: _struct_pb2.Struct
    lease_timeout: _duration_pb2.Duration
    fail_when_lost: bool
    retention: _duration_pb2.Duration
    title: str
    start_timeout: _duration_pb2.Duration
    def __init__(self, job_id: _Optional[str] = ..., request_id: _Optional[str] = ..., kind: _Optional[str] = ..., owner: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., lease_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., fail_when_lost: _Optional[bool] = ..., retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., title: _Optional[str] = ..., start_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CreateJobResponse(_message.Message):
    __slots__ = ("job", "created")
    JOB_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    created: bool
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id", "min_revision", "view")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    min_revision: int
    view: View
    def __init__(self, job_id: _Optional[str] = ..., min_revision: _Optional[int] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job", "source")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    source: Source
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., source: _Optional[_Union[Source, str]] = ...) -> None: ...

class BatchGetJobsRequest(_message.Message):
    __slots__ = ("job_ids", "view")
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    view: View
    def __init__(self, job_ids: _Optional[_Iterable[str]] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class BatchGetJobsResponse(_message.Message):
    __slots__ = ("jobs", "missing_ids")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_job_pb2.Job]
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, jobs: _Optional[_Iterable[_Union[_job_pb2.Job, _Mapping]]] = ..., missing_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "view", "order")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    filter: JobFilter
    page_size: int
    page_token: str
    view: View
    order: Order
    def __init__(self, filter: _Optional[_Union[JobFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[View, str]] = ..., order: _Optional[_Union[Order, str]] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token", "total_size", "partial")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_job_pb2.Job]
    next_page_token: str
    total_size: int
    partial: bool
    def __init__(self, jobs: _Optional[_Iterable[_Union[_job_pb2.Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ..., partial: _Optional[bool] = ...) -> None: ...

class StartAttemptRequest(_message.Message):
    __slots__ = ("job_id", "worker", "request_id", "lease_timeout", "takeover")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TAKEOVER_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    worker: str
    request_id: str
    lease_timeout: _duration_pb2.Duration
    takeover: bool
    def __init__(self, job_id: _Optional[str] = ..., worker: _Optional[str] = ..., request_id: _Optional[str] = ..., lease_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., takeover: _Optional[bool] = ...) -> None: ...

class StartAttemptResponse(_message.Message):
    __slots__ = ("job", "claim")
    JOB_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    claim: str
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., claim: _Optional[str] = ...) -> None: ...

class UpdateProgressRequest(_message.Message):
    __slots__ = ("job_id", "progress", "worker", "sequence", "attempt", "expected_revision", "lease_timeout", "claim")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    LEASE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    progress: _job_pb2.Progress
    worker: str
    sequence: int
    attempt: int
    expected_revision: int
    lease_timeout: _duration_pb2.Duration
    claim: str
    def __init__(self, job_id: _Optional[str] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., worker: _Optional[str] = ..., sequence: _Optional[int] = ..., attempt: _Optional[int] = ..., expected_revision: _Optional[int] = ..., lease_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., claim: _Optional[str] = ...) -> None: ...

class UpdateProgressResponse(_message.Message):
    __slots__ = ("job", "applied", "ignored")
    JOB_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    applied: bool
    ignored: Ignored
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., applied: _Optional[bool] = ..., ignored: _Optional[_Union[Ignored, str]] = ...) -> None: ...

class CompleteJobRequest(_message.Message):
    __slots__ = ("job_id", "result", "attempt", "expected_revision", "claim")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    result: _struct_pb2.Struct
    attempt: int
    expected_revision: int
    claim: str
    def __init__(self, job_id: _Optional[str] = ..., result: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., attempt: _Optional[int] = ..., expected_revision: _Optional[int] = ..., claim: _Optional[str] = ...) -> None: ...

class CompleteJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class FailJobRequest(_message.Message):
    __slots__ = ("job_id", "failure", "attempt", "expected_revision", "claim", "retry")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    failure: _job_pb2.Failure
    attempt: int
    expected_revision: int
    claim: str
    retry: bool
    def __init__(self, job_id: _Optional[str] = ..., failure: _Optional[_Union[_job_pb2.Failure, _Mapping]] = ..., attempt: _Optional[int] = ..., expected_revision: _Optional[int] = ..., claim: _Optional[str] = ..., retry: _Optional[bool] = ...) -> None: ...

class FailJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job_id", "reason", "requester", "force", "grace")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    requester: str
    force: bool
    grace: _duration_pb2.Duration
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ..., requester: _Optional[str] = ..., force: _Optional[bool] = ..., grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ConfirmCancelRequest(_message.Message):
    __slots__ = ("job_id", "attempt", "message", "claim")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    message: str
    claim: str
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., message: _Optional[str] = ..., claim: _Optional[str] = ...) -> None: ...

class ConfirmCancelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job_id", "force")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    force: bool
    def __init__(self, job_id: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("job_id", "resume_token", "min_interval", "bookmark_interval", "view")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    resume_token: str
    min_interval: _duration_pb2.Duration
    bookmark_interval: _duration_pb2.Duration
    view: View
    def __init__(self, job_id: _Optional[str] = ..., resume_token: _Optional[str] = ..., min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class WatchJobResponse(_message.Message):
    __slots__ = ("event", "job", "skipped", "resume_token", "reset", "removal")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    event: Event
    job: _job_pb2.Job
    skipped: int
    resume_token: str
    reset: bool
    removal: Removal
    def __init__(self, event: _Optional[_Union[Event, str]] = ..., job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., skipped: _Optional[int] = ..., resume_token: _Optional[str] = ..., reset: _Optional[bool] = ..., removal: _Optional[_Union[Removal, str]] = ...) -> None: ...

class WatchJobsRequest(_message.Message):
    __slots__ = ("job_ids", "filter", "resume_token", "min_interval", "bookmark_interval", "view")
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    filter: JobFilter
    resume_token: str
    min_interval: _duration_pb2.Duration
    bookmark_interval: _duration_pb2.Duration
    view: View
    def __init__(self, job_ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[JobFilter, _Mapping]] = ..., resume_token: _Optional[str] = ..., min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., bookmark_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class WatchJobsResponse(_message.Message):
    __slots__ = ("event", "job", "skipped", "resume_token", "reset", "removal", "snapshot_pending")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_PENDING_FIELD_NUMBER: _ClassVar[int]
    event: Event
    job: _job_pb2.Job
    skipped: int
    resume_token: str
    reset: bool
    removal: Removal
    snapshot_pending: bool
    def __init__(self, event: _Optional[_Union[Event, str]] = ..., job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., skipped: _Optional[int] = ..., resume_token: _Optional[str] = ..., reset: _Optional[bool] = ..., removal: _Optional[_Union[Removal, str]] = ..., snapshot_pending: _Optional[bool] = ...) -> None: ...

class CreateWatchTokenRequest(_message.Message):
    __slots__ = ("job_ids", "ttl", "view")
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    ttl: _duration_pb2.Duration
    view: View
    def __init__(self, job_ids: _Optional[_Iterable[str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class CreateWatchTokenResponse(_message.Message):
    __slots__ = ("token", "expire_time", "path")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    token: str
    expire_time: _timestamp_pb2.Timestamp
    path: str
    def __init__(self, token: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...
