"""Errors as the stack words them: texts of torch, NCCL, gloo, Ray, the C library, HTTP clients, stores and decoders."""

import builtins
import errno
import os
import ssl
import zlib
from pathlib import Path

import pytest

from orchestrator.failures import known_messages
from orchestrator.failures.classes import classify
from orchestrator.failures.failure_class import FailureClass

CUDA_NOTE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
WORKER_EXIT = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: ShardHost\n\tpid: 4412\n\tip: 10.0.3.7\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM killer "
    "(verifiable by checking for OOM in dmesg of the OOMing node), consider enabling resource isolation via "
    "--enable-resource-isolation to prevent node deaths by resource contention."
)


def of(name: str, text: str, base: type[Exception] = Exception) -> Exception:
    """An error as a library defines it: `name` is "module.of.library:Class"."""
    module, _, kind = name.partition(":")
    return type(kind, (base,), {"__module__": module})(text)


def accelerator(text: str) -> Exception:
    return of("torch:AcceleratorError", text + CUDA_NOTE, RuntimeError)


def nccl(text: str) -> Exception:
    where = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3699, "
    return of("torch.distributed:DistBackendError", where + text, RuntimeError)


def runtime(text: str) -> Exception:
    return RuntimeError(text)


def system(number: int) -> Exception:
    return OSError(number, os.strerror(number), "/mnt/data/part-00017.tar")


GPU_OOM = [
    of(
        "torch:OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of",
        RuntimeError,
    ),
    runtime("CUDA out of memory. Tried to allocate 384.00 MiB (GPU 3; 79.15 GiB total capacity; 76.4 GiB allocated)"),
    accelerator("CUDA error: out of memory"),
    runtime("CUDA error: out of memory" + CUDA_NOTE),
    runtime("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    runtime("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    runtime("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    runtime("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    runtime("cuFFT error: CUFFT_ALLOC_FAILED"),
    runtime("HIP out of memory. Tried to allocate 1.25 GiB"),
    runtime("NPU out of memory. Tried to allocate 512.00 MiB (NPU 0; 60.97 GiB total capacity)"),
    runtime("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    nccl(
        "unhandled cuda error, NCCL version 2.27.3\nncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nCuda failure 2 'out of memory'"
    ),
    runtime("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes."),
    nccl("unhandled cuda error, NCCL version 2.21.5\nLast error:\nFailed to CUDA calloc async 608 bytes"),
]
HOST_OOM = [
    MemoryError("Unable to allocate 8.00 PiB for an array with shape (1125899906842624,) and data type float64"),
    runtime(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4611686018427387904 bytes. Error code 12 (Cannot allocate memory)"
    ),
    runtime(
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 B."
    ),
    runtime("std::bad_alloc"),
    of("pyarrow.lib:ArrowMemoryError", "malloc of size 4294967296 failed", MemoryError),
    runtime("DataLoader worker (pid 71234) is killed by signal: Killed. "),
    runtime(
        "DataLoader worker (pid 71234) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of shared memory. Please try to raise your shared memory limit."
    ),
    runtime("DataLoader worker (pid(s) 3311, 3312) exited unexpectedly"),
    runtime(
        "unable to open shared memory object </torch_4412_1987_3> in read-write mode: No space left on device (28)"
    ),
    runtime("bus error (core dumped) writing /dev/shm/nccl-AbC"),
    runtime("unable to write to file </torch_4412_1987_3>: No space left on device (28)"),
    runtime("unable to mmap 1048576 bytes from file </torch_4412_1987_3>: Cannot allocate memory (12)"),
    runtime(
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm)."
    ),
    OSError(errno.ENOSPC, "No space left on device", "/dev/shm/psm_3f1a"),
    nccl(
        "unhandled system error, NCCL version 2.27.3\nncclSystemError: System call (e.g. socket, malloc) or external "
        "library call failed or device error.\nLast error:\nError while creating shared memory segment "
        "/dev/shm/nccl-o1UGJu (size 9637888), error: No space left on device (28)"
    ),
    system(errno.ENOMEM),
    of("ray.exceptions:OutOfMemoryError", "Task was killed due to the node running low on memory."),
    of(
        "ray.exceptions:RayActorError",
        "The actor died. Memory on the node (IP: 10.0.0.5, ID: 9f) where the task was "
        "running was low: 60.1GB / 63.0GB (0.95)",
    ),
    runtime(
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=881.0. Some of the step tasks have been OOM Killed."
    ),
    runtime("container illume-worker: last state: terminated, reason: OOMKilled, exit code 137"),
    runtime("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    runtime("slurmstepd: error: Job 881 exceeded memory limit (65012 > 64000), being killed"),
]
USER_CODE = [
    accelerator("CUDA error: device-side assert triggered"),
    runtime("CUDA error: device-side assert triggered" + CUDA_NOTE),
    runtime("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    runtime("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."),
    runtime("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    accelerator("CUDA error: invalid configuration argument"),
    runtime("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use 'spawn'"),
    nccl(
        "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.3\nncclInvalidUsage: This usually "
        "reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0"
    ),
    ModuleNotFoundError("No module named 'flash_attn'"),
    ImportError("cannot import name 'Qwen3Model' from 'transformers' (unknown location)"),
    of(
        "ray.exceptions:RaySystemError",
        "System error: No module named 'house_code'\ntraceback: Traceback (most recent "
        "call last):\n  File \"serialization.py\", line 9, in f\nModuleNotFoundError: No module named 'house_code'\n",
    ),
    of(
        "ray.exceptions:RayActorError",
        "The actor died because of an error raised in its creation task, ray::ShardHost"
        "() (pid=4412, ip=10.0.3.7)\nRuntimeError: The actor with name ShardHost failed to import on the worker. This "
        "may be because needed library dependencies are not installed in the worker environment:\n\nModuleNotFoundError"
        ": No module named 'house_code'",
    ),
    of(
        "ray.exceptions:UnserializableException",
        "Failed to deserialize exception.\nOriginal exception:\nTraceback "
        "(most recent call last):\n  File \"work.py\", line 4, in parse\nKeyError: 'colour'",
    ),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "/mnt/data/a.jpg"),
    PermissionError(errno.EACCES, "Permission denied", "/mnt/data/a.jpg"),
    of(
        "botocore.exceptions:ClientError",
        "An error occurred (AccessDenied) when calling the GetObject operation: Access Denied",
    ),
    of("botocore.exceptions:ClientError", "An error occurred (NoSuchBucket) when calling the ListObjectsV2 operation"),
    of("requests.exceptions:HTTPError", "404 Client Error: Not Found for url: https://hub/api/models/x", OSError),
    of("httpx:HTTPStatusError", "Client error '403 Forbidden' for url 'https://store/x'"),
    AssertionError("Torch not compiled with CUDA enabled"),
    ValueError("the job was preempted by a word in a caption"),
    runtime("Attempting to deserialize object on CUDA device 3 but torch.cuda.device_count() is 1."),
    of("botocore.exceptions:ClientError", "An error occurred (InvalidAccessKeyId) when calling PutObject"),
]
PRECHECK = [
    accelerator("CUDA error: no kernel image is available for execution on the device"),
    accelerator("CUDA error: invalid device ordinal\nGPU device may be out of range, do you have enough GPUs?"),
    runtime("CUDA error: invalid device function"),
    runtime("No CUDA GPUs are available"),
    runtime("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"),
    runtime("The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"),
    runtime("CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling `cublasGemmEx`"),
    of("ray.exceptions:AuthenticationError", "Authentication required: token missing"),
    runtime("CUDA driver version is insufficient for CUDA runtime version"),
]
NUMERIC = [
    FloatingPointError("divide by zero encountered in log"),
    runtime("Function 'MulBackward0' returned nan values in its 0th output."),
    runtime("The total norm of order 2.0 for gradients from `parameters` is non-finite, so it cannot be clipped."),
    Exception("Current loss scale already at minimum - cannot decrease scale anymore. Exiting run."),
]
NODE_LOST = [
    accelerator("CUDA error: uncorrectable ECC error encountered"),
    accelerator("CUDA error: an illegal memory access was encountered"),
    accelerator("CUDA error: unspecified launch failure"),
    accelerator("CUDA error: unknown error"),
    runtime("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    runtime("cuDNN error: CUDNN_STATUS_MAPPING_ERROR"),
    runtime(
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
        "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
    ),
    runtime(
        "Unable to determine the device handle for GPU0000:1B:00.0: GPU is lost. Reboot the system to recover this GPU"
    ),
    runtime("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus."),
    of("ray.exceptions:RayActorError", WORKER_EXIT),
    runtime(WORKER_EXIT),
    of(
        "ray.exceptions:RayActorError",
        "The actor died because its node has died. Node Id: b157c93d\n\tthe actor's node"
        " was terminated unexpectedly: health check failed due to missing too many heartbeats",
    ),
    of("ray.exceptions:WorkerCrashedError", "The worker died unexpectedly while executing this task."),
    of(
        "ray.train.v2._internal.exceptions:WorkerHealthCheckTimeoutError",
        "A worker health check has been hanging for 600 s.",
    ),
    of("ray.train.v2._internal.exceptions:WorkerHealthCheckFailedError", "A worker health check failed."),
    of(
        "ray.train.v2._internal.exceptions:WorkerGroupStartupFailedError",
        "Worker group failed to start: an actor died.",
    ),
    runtime("DataLoader worker (pid 71234) is killed by signal: Segmentation fault. "),
    of("subprocess:CalledProcessError", "Command '['ffmpeg']' died with <Signals.SIGKILL: 9>."),
    of("torch.multiprocessing.spawn:ProcessExitedException", "process 0 terminated with signal SIGKILL"),
    OSError(133, "Memory page has hardware error"),
    runtime("The node with node id: 8f20 and ip: 10.0.0.3 has been marked dead because it missed too many heartbeats"),
    runtime("job illume-r1 ended as FAILED: worker died"),
    runtime("uncorrectable: NVLink error detected"),
    runtime("GPU requires reset"),
    runtime("cusolver: CUSOLVER_STATUS_INTERNAL_ERROR"),
]
CAPACITY = [
    of(
        "ray.train.v2._internal.exceptions:WorkerGroupStartupTimeoutError",
        "The worker group startup timed out after 30.0 seconds waiting for 8 workers.",
    ),
    of("ray.train.v2._internal.exceptions:InsufficientClusterResourcesError", "Insufficient cluster resources."),
    of("ray.exceptions:ActorUnschedulableError", "The actor is not schedulable: {'GPU': 8.0}"),
]
HANG = [
    runtime("DataLoader timed out after 120 seconds"),
    of(
        "ray.train.v2._internal.exceptions:CollectiveTimeoutError",
        "The broadcast operation timed out after 1800 seconds.",
    ),
    of("ray.train.v2.api.exceptions:NCCLHangError", "The NCCL RAS subsystem found a hung job"),
]
GROUP_OF_PROCESSES = [
    nccl(
        "remote process exited or there was a network error, NCCL version 2.27.3\nncclRemoteError: A call failed "
        "possibly due to a network error or a remote process exiting prematurely."
    ),
    runtime(
        "NCCL communicator was aborted on rank 2.  Original reason for failure was: [Rank 2] Watchdog caught "
        "collective operation timeout: WorkNCCL(SeqNum=10, OpType=BROADCAST, Timeout(ms)=1800000) ran for 1805457 ms"
    ),
    runtime(
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE, NumelIn=1) "
        "ran for 600012 milliseconds before timing out."
    ),
    of("torch.distributed:DistStoreError", "Timed out after 1801 seconds waiting for clients. 1/2 clients joined."),
    runtime("Timed out after 1801 seconds waiting for clients. 1/2 clients joined."),
    runtime(
        "Timed out initializing process group in store based barrier on rank: 0, for key: store_based_barrier_key:1 "
        "(world_size=2, num_workers_joined=1, timeout=0:30:00)"
    ),
    of(
        "torch.distributed:DistNetworkError",
        "The client socket has timed out after 600000ms while trying to connect to (10.0.0.1, 29500).",
    ),
    of(
        "torch.distributed:DistNetworkError",
        "The server socket has failed to listen on any local network address. "
        "port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
    ),
    runtime("wait timeout after 300000ms, keys: /default_pg/0//cpu//0/1"),
    runtime("Socket Timeout"),
    runtime(
        "[2] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key "
        "'0', but store->get('0') got error: Connection reset by peer"
    ),
    runtime("Rank 1 failed to pass monitoredBarrier in 30000 ms"),
    runtime("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:15743"),
    runtime(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv "
        "operation to complete"
    ),
    runtime("Application timeout caused pair closure"),
    runtime("Gloo connectFullMesh failed with [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error"),
    of("torch.distributed.elastic.rendezvous.api:RendezvousTimeoutError", "the rendezvous did not complete in 600 s"),
    runtime("Failed to connect to GCS within 60 seconds. GCS may have been killed."),
    of("ray.exceptions:GetTimeoutError", "Get timed out: some object(s) not ready."),
    runtime("Timed out waiting for the other ranks"),
]
NETWORK = [
    of("socket:gaierror", "[Errno -3] Temporary failure in name resolution", OSError),
    of("socket:gaierror", "[Errno -2] Name or service not known", OSError),
    OSError("[Errno -3] Temporary failure in name resolution"),
    runtime("Could not resolve host: bucket.s3.eu-central-1.amazonaws.com"),
    of("urllib.error:URLError", "<urlopen error [Errno -3] Temporary failure in name resolution>", OSError),
    of(
        "requests.exceptions:ConnectionError",
        "HTTPSConnectionPool(host='hub', port=443): Max retries exceeded",
        OSError,
    ),
    of(
        "requests.exceptions:ChunkedEncodingError",
        "('Connection broken: InvalidChunkLength(got length b'', 0 bytes "
        "read)', InvalidChunkLength(got length b'', 0 bytes read))",
        OSError,
    ),
    of("requests.exceptions:SSLError", "certificate verify failed: unable to get local issuer certificate", OSError),
    ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:1006)"),
    ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac (_ssl.c:2580)"),
    of(
        "urllib3.exceptions:ProtocolError",
        "('Connection aborted.', RemoteDisconnected('Remote end closed connection'))",
    ),
    of("urllib3.exceptions:IncompleteRead", "IncompleteRead(1024 bytes read, 4096 more expected)"),
    of("http.client:IncompleteRead", "IncompleteRead(17 bytes read)"),
    of(
        "aiohttp.client_exceptions:ClientPayloadError",
        "Response payload is not completed: <TransferEncodingError: 400>",
    ),
    of("aiohttp.client_exceptions:ServerDisconnectedError", "Server disconnected"),
    of(
        "httpx:RemoteProtocolError",
        "peer closed connection without sending complete message body (incomplete chunked read)",
    ),
    of("httpx:ReadTimeout", "The read operation timed out"),
    of("httpx:HTTPStatusError", "Server error '503 Service Unavailable' for url 'https://store/x'"),
    of("requests.exceptions:HTTPError", "429 Client Error: Too Many Requests for url: https://hub/x", OSError),
    of("requests.exceptions:HTTPError", "502 Server Error: Bad Gateway for url: https://hub/x", OSError),
    of(
        "botocore.exceptions:ClientError",
        "An error occurred (SlowDown) when calling the GetObject operation (reached "
        "max retries: 4): Please reduce your request rate.",
    ),
    of(
        "botocore.exceptions:ClientError",
        "An error occurred (503) when calling the HeadObject operation: Service Unavailable",
    ),
    of("botocore.exceptions:ClientError", "An error occurred (InternalError) when calling the PutObject operation"),
    of(
        "botocore.exceptions:ClientError",
        "An error occurred (ThrottlingException) when calling the AssumeRole operation",
    ),
    of(
        "botocore.exceptions:EndpointConnectionError",
        'Could not connect to the endpoint URL: "https://s3.amazonaws.com/x"',
    ),
    of("botocore.exceptions:ReadTimeoutError", 'Read timeout on endpoint URL: "None"'),
    of(
        "obstore.exceptions:GenericError",
        "Generic S3 error: Error performing GET https://s3/x in 180.2s, after 10 "
        "retries, max_retries: 10, retry_timeout: 180s - HTTP error: error sending request",
    ),
    of("obstore.exceptions:GenericError", "Generic S3 error: Server returned non-2xx status code: 503: SlowDown"),
    of("google.api_core.exceptions:ServiceUnavailable", "503 The service is currently unavailable"),
    of(
        "grpc:RpcError",
        "<_InactiveRpcError of RPC that terminated with: status = StatusCode.UNAVAILABLE details = 'x'>",
    ),
    OSError("We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cache."),
    of(
        "mlflow.exceptions:MlflowException",
        "API request to http://t/api failed with exception HTTPConnectionPool(host="
        "'t', port=80): Max retries exceeded with url: /api",
    ),
    of("psycopg:OperationalError", "server closed the connection unexpectedly"),
    of("sqlite3:OperationalError", "database is locked"),
    runtime("API rate limit reached for this token"),
    of("botocore.exceptions:ClientError", "An error occurred (RequestLimitExceeded) when calling the X operation"),
    of("botocore.exceptions:ClientError", "An error occurred (ExpiredToken) when calling the GetObject operation"),
    runtime("504: Gateway Timeout"),
    runtime("the server answered with status code 503"),
    runtime("500 Server Error for url: https://tracker/api"),
    runtime("Response ended prematurely"),
    runtime("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
    runtime("FATAL: sorry, too many clients already"),
    of("ray.exceptions:RpcError", "Deadline Exceeded"),
    OSError("[Errno -5] No address associated with hostname"),
    runtime("upstream connect error or disconnect/reset before headers"),
]
ERRNOS = [
    *(errno.EREMOTEIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENETRESET, errno.ENOLCK, errno.EROFS, errno.ENODEV),
    *(errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT, errno.EBUSY, errno.EAGAIN, errno.EMFILE),
    *(errno.ENFILE, errno.ENXIO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNABORTED),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
    *(errno.ENOBUFS, errno.EPROTO, errno.ENONET, errno.ENOLINK, errno.ECOMM, errno.EBADMSG, errno.EUCLEAN),
    *(errno.ETXTBSY, errno.EDEADLK),
]
SYSTEM = [
    *(system(number) for number in ERRNOS),
    runtime("[enforce fail at inline_container.cc:672] . file write failed: No space left on device"),
    runtime("unable to open shared library: Transport endpoint is not connected"),
    of("safetensors:SafetensorError", "Error while serializing: I/O error: Input/output error (os error 5)"),
    ValueError("cannot read part-00017.tar: [Errno 116] Stale file handle"),
    ImportError("libcufft.so.12: cannot read file data: Input/output error"),
    OSError(
        "Unable to synchronously open file (file read failed: time = Mon Nov 30 09:00:00 2026, filename = 'x.h5', "
        "errno = 5, error message = 'Input/output error')"
    ),
    OSError(
        "Unable to synchronously open file (unable to lock file, errno = 11, error message = 'Resource temporarily "
        "unavailable')"
    ),
    runtime("received 0 items of ancdata"),
    runtime("can't start new thread"),
]
DATA = [
    of("PIL:UnidentifiedImageError", "cannot identify image file <_io.BytesIO object at 0x7f>", OSError),
    OSError("image file is truncated (6 bytes not processed)"),
    OSError("Truncated File Read"),
    OSError("broken data stream when reading image file"),
    OSError("unrecognized data stream contents when reading image file"),
    OSError("decoder error -2 when reading image file"),
    SyntaxError("broken PNG file (chunk b'IDAT')"),
    of("PIL.Image:DecompressionBombError", "Image size (400000000 pixels) exceeds limit of 178956970 pixels"),
    of("gzip:BadGzipFile", "Not a gzipped file (b'<h')", OSError),
    OSError("CRC check failed 0x1 != 0x2"),
    EOFError("Compressed file ended before the end-of-stream marker was reached"),
    zlib.error("Error -3 while decompressing data: incorrect header check"),
    of("_lzma:LZMAError", "Input format not supported by decoder"),
    OSError("Invalid data stream"),
    of("tarfile:ReadError", "unexpected end of data"),
    of("zipfile:BadZipFile", "File is not a zip file"),
    OSError("Corrupt snappy compressed data."),
    OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"),
    OSError("Unexpected end of stream: Page was smaller (17) than expected (4096)"),
    of("pyarrow.lib:ArrowInvalid", "Could not open Parquet input source '<Buffer>': Parquet magic bytes not found in "
       "footer. Either the file is corrupted or this is not a parquet file.", ValueError),
    of("pyarrow.lib:ArrowInvalid", "Could not open Parquet input source '<Buffer>': Parquet file size is 18 bytes, "
       "smaller than the size reported by footer's (2021161080bytes)", ValueError),
    OSError("Unable to synchronously open file (file signature not found)"),
    OSError("Unable to open file (truncated file: eof = 2048, sblock->base_addr = 0, stored_eof = 9999)"),
    OSError("Can't synchronously read data (inflate() failed)"),
    OSError("Can't read data (wrong B-tree signature)"),
    runtime("PytorchStreamReader failed reading zip archive: failed finding central directory"),
    of("safetensors:SafetensorError", "Error while deserializing: header too large"),
    runtime("[ERROR:0@12.3] imdecode_('') can't read header: OpenCV exception"),
    SyntaxError("not a TIFF file (header b'II' not valid)"),
    ValueError("bad PNG chunk"),
    OSError("Invalid page header"),
    OSError("Invalid IPC message: negative bodyLength"),
    runtime("checksum mismatch in record 7"),
    of("safetensors:SafetensorError", "MetadataIncompleteBuffer"),
    runtime("[mov,mp4] moov atom not found"),
    OSError("Corrupt Parquet file: bad dictionary page header"),
    of("struct:error", "unpack requires a buffer of 4 bytes"),
    runtime("Premature end of JPEG file"),
    OSError("ZSTD decompression failed: Src size is incorrect"),
    of("pyarrow.lib:ArrowInvalid", "Not an Arrow file", ValueError),
    OSError("Can't synchronously read data (filter returned failure during read)"),
    OSError("Unable to open file (bad superblock version number)"),
    of("tarfile:ReadError", "file could not be opened successfully"),
]  # fmt: skip
UNKNOWN = [
    runtime("mat1 and mat2 shapes cannot be multiplied (4x8 and 4x8)"),
    runtime("preempted by another job of higher priority"),
    runtime("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    runtime(
        "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost due to multiprocessing."
    ),
    Exception("it went wrong"),
]
FAMILIES: dict[FailureClass, list[list[Exception]]] = {
    FailureClass.GPU_OOM: [GPU_OOM],
    FailureClass.HOST_OOM: [HOST_OOM],
    FailureClass.USER_CODE: [USER_CODE],
    FailureClass.PRECHECK: [PRECHECK],
    FailureClass.NUMERIC: [NUMERIC],
    FailureClass.NODE_LOST: [NODE_LOST],
    FailureClass.CAPACITY: [CAPACITY],
    FailureClass.HANG: [HANG],
    FailureClass.INFRA_TRANSIENT: [GROUP_OF_PROCESSES, NETWORK, SYSTEM],
    FailureClass.DATA_POISON: [DATA],
    FailureClass.UNKNOWN: [UNKNOWN],
}


def reported() -> list[tuple[Exception, FailureClass]]:
    """Messages as users have reported them, one a line: class, type, text."""
    lines = Path(__file__).with_name("reported_messages.tsv").read_text().splitlines()
    found = []
    for failure, kind, text in (line.split("\t") for line in lines):
        text = text.replace("\\n", "\n")
        made = of(kind, text) if ":" in kind else getattr(builtins, kind)(text)
        found.append((made, FailureClass[failure]))
    return found


CASES = [(error, failure) for failure, lists in FAMILIES.items() for errors in lists for error in errors]
CASES += reported()


@pytest.mark.parametrize(("error", "expected"), CASES, ids=[f"{failure}-{str(error)[:60]}" for error, failure in CASES])
def test_an_error_of_the_stack_has_its_class(error: Exception, expected: FailureClass) -> None:
    assert classify(error) is expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (511, FailureClass.USER_CODE),
        (512, FailureClass.INFRA_TRANSIENT),
        (524, FailureClass.INFRA_TRANSIENT),
        (531, FailureClass.INFRA_TRANSIENT),
        (532, FailureClass.USER_CODE),
    ],
)
def test_a_number_that_linux_keeps_to_itself_is_of_the_file_system(number: int, expected: FailureClass) -> None:
    assert classify(OSError(number, f"Unknown error {number}", "/mnt/nfs/a.h5")) is expected


def test_a_broken_page_of_memory_is_a_lost_node() -> None:
    assert classify(OSError(133, "Memory page has hardware error")) is FailureClass.NODE_LOST


def test_no_message_means_preemption() -> None:
    assert FailureClass.PREEMPTED not in {failure for _, failure in known_messages.ALL}


def test_every_rule_decides_for_a_text_above() -> None:
    texts = [str(error).lower() for error, _ in CASES]
    deciding = {next((rule for rule in known_messages.ALL if rule[0].search(text)), None) for text in texts}
    assert [pattern.pattern for pattern, failure in known_messages.ALL if (pattern, failure) not in deciding] == []
