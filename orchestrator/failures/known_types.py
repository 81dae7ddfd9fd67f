"""What the types and error numbers of errors say about their failure class.

Types of libraries are known by name, "module root:class", so that neither Ray nor torch is imported. A type counts
for its subclasses too. Versions: Ray 2.60, torch 2.13, obstore 0.8, SQLAlchemy 2, and the standard library.
"""

import errno

from orchestrator.failures.failure_class import FailureClass as F

# Types that say all. Their message is not looked at.
PRECISE: dict[str, F] = {
    "ray:PreemptionError": F.PREEMPTED,
    "ray:OutOfMemoryError": F.HOST_OOM,
    "ray:ObjectStoreFullError": F.HOST_OOM,
    "ray:WorkerCrashedError": F.NODE_LOST,
    "ray:LocalRayletDiedError": F.NODE_LOST,
    "ray:NodeDiedError": F.NODE_LOST,
    "ray:ObjectLostError": F.NODE_LOST,
    "ray:TaskPlacementGroupRemoved": F.NODE_LOST,
    "ray:ActorPlacementGroupRemoved": F.NODE_LOST,
    "ray:WorkerGroupStartupFailedError": F.NODE_LOST,  # a node died while its worker started
    "ray:WorkerHealthCheckTimeoutError": F.NODE_LOST,
    "ray:TaskUnschedulableError": F.CAPACITY,
    "ray:ActorUnschedulableError": F.CAPACITY,
    "ray:WorkerGroupStartupTimeoutError": F.CAPACITY,
    "ray:InsufficientClusterResourcesError": F.CAPACITY,
    "ray:NCCLHangError": F.HANG,
    "ray:CollectiveTimeoutError": F.HANG,  # a rank never reached the barrier of a report
    "ray:AuthenticationError": F.PRECHECK,
    "ray:OutOfDiskError": F.INFRA_TRANSIENT,
    "ray:GetTimeoutError": F.INFRA_TRANSIENT,
    "ray:RpcError": F.INFRA_TRANSIENT,
    "ray:PendingCallsLimitExceeded": F.INFRA_TRANSIENT,
    "ray:CheckpointManagerInitializationError": F.INFRA_TRANSIENT,
    "concurrent:BrokenProcessPool": F.NODE_LOST,
    "joblib:TerminatedWorkerError": F.NODE_LOST,
    "torch:OutOfMemoryError": F.GPU_OOM,
    "torch:ProcessExitedException": F.NODE_LOST,
    "torch:DistStoreError": F.INFRA_TRANSIENT,
    "torch:DistNetworkError": F.INFRA_TRANSIENT,
    "sqlalchemy:OperationalError": F.INFRA_TRANSIENT,
    "sqlalchemy:TimeoutError": F.INFRA_TRANSIENT,
    "psycopg:OperationalError": F.INFRA_TRANSIENT,
    "obstore:NotFoundError": F.USER_CODE,
    "obstore:PermissionDeniedError": F.USER_CODE,
    "obstore:UnauthenticatedError": F.USER_CODE,
    "socket:gaierror": F.INFRA_TRANSIENT,
    "socket:herror": F.INFRA_TRANSIENT,
    "ssl:SSLError": F.INFRA_TRANSIENT,
    "http:IncompleteRead": F.INFRA_TRANSIENT,
    "http:BadStatusLine": F.INFRA_TRANSIENT,
    "urllib:ContentTooShortError": F.INFRA_TRANSIENT,
    "requests:ConnectionError": F.INFRA_TRANSIENT,  # with the errors of proxies and TLS
    "requests:Timeout": F.INFRA_TRANSIENT,
    "requests:ChunkedEncodingError": F.INFRA_TRANSIENT,
    "aiohttp:ClientConnectionError": F.INFRA_TRANSIENT,
    "aiohttp:ClientPayloadError": F.INFRA_TRANSIENT,
    "httpx:TransportError": F.INFRA_TRANSIENT,
    "botocore:HTTPClientError": F.INFRA_TRANSIENT,  # parent of those of connections, time-outs and TLS
    "azure:ClientAuthenticationError": F.USER_CODE,
    "azure:ResourceNotFoundError": F.USER_CODE,
    "google:Forbidden": F.USER_CODE,
    "google:NotFound": F.USER_CODE,
    "google:Unauthorized": F.USER_CODE,
    "google:ServerError": F.INFRA_TRANSIENT,
    "google:TooManyRequests": F.INFRA_TRANSIENT,
    "huggingface_hub:LocalEntryNotFoundError": F.INFRA_TRANSIENT,  # not in the cache, and the hub did not answer
    "PIL:UnidentifiedImageError": F.DATA_POISON,
    "PIL:DecompressionBombError": F.DATA_POISON,
    "gzip:BadGzipFile": F.DATA_POISON,
    "zlib:error": F.DATA_POISON,
    "_lzma:LZMAError": F.DATA_POISON,
    "lzma:LZMAError": F.DATA_POISON,
    "zstandard:ZstdError": F.DATA_POISON,
    "tarfile:ReadError": F.DATA_POISON,
    "tarfile:HeaderError": F.DATA_POISON,
    "zipfile:BadZipFile": F.DATA_POISON,
}

# Types whose message decides; this class if the message says nothing.
BY_DEFAULT: dict[str, F] = {
    "ray:RayActorError": F.NODE_LOST,  # parent of ActorDiedError and ActorUnavailableError
    "ray:WorkerHealthCheckFailedError": F.NODE_LOST,
    "ray:RuntimeEnvSetupError": F.INFRA_TRANSIENT,
    "ray:RaySystemError": F.INFRA_TRANSIENT,
    "torch:AcceleratorError": F.NODE_LOST,  # a GPU fell off the bus, or its context is gone
    "torch:DistError": F.INFRA_TRANSIENT,
    "safetensors:SafetensorError": F.DATA_POISON,
}

# Clients of networks: what their errors do not explain is the network's fault.
NETWORK_LIBRARIES = frozenset(
    {"aiohttp", "azure", "boto3", "botocore", "fsspec", "gcsfs", "google", "grpc", "http", "httpcore", "httpx"}
    | {"huggingface_hub", "minio", "obstore", "requests", "s3fs", "s3transfer", "socket", "ssl", "urllib", "urllib3"}
)

# Python's own errors whose type alone does not decide between the stage's code and its data or environment.
USER_ERRORS: tuple[type[BaseException], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)


def _numbers(names: str) -> frozenset[int]:
    """The numbers of these names on this system; some exist on Linux only."""
    known = vars(errno)
    return frozenset(known[name] for name in names.split() if name in known)


# Of disks, mounts, networks and limits of the system: the same call may succeed later or elsewhere.
TRANSIENT_ERRNOS = _numbers(
    "EIO ENXIO ENODEV EROFS ESTALE EREMOTEIO EREMOTE ENOTCONN EBADMSG EUCLEAN EBADFD ENOMEDIUM EMEDIUMTYPE "
    "ENOSPC EDQUOT EBUSY ETXTBSY EAGAIN EINTR ECANCELED EDEADLK EDEADLOCK ENOLCK ENFILE EMFILE ENOBUFS "
    "ENODATA EBADE ENOKEY EKEYREVOKED EKEYREJECTED "  # a broken sector, a reserved disk, a key that one node lacks
    "ETIMEDOUT ETIME ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ECONNREFUSED ECONNRESET ECONNABORTED EPIPE "
    "ESHUTDOWN EADDRINUSE EADDRNOTAVAIL EALREADY EINPROGRESS ENONET ENOLINK ECOMM EPROTO ENOSR "
    "EBADRPC ERPCMISMATCH EPROGUNAVAIL EPROGMISMATCH EKEYEXPIRED EOWNERDEAD ENOTRECOVERABLE"
) | frozenset(range(512, 532))  # of Linux alone; NFS lets some out, e.g. 524: not supported
BROKEN_NODE_ERRNOS = frozenset({133})  # EHWPOISON of Linux, which Python does not name: a broken memory page
