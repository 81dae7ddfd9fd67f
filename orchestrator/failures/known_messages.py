"""What the message of an error says about its failure class, where its type and error number do not.

Pairs of a regular expression, searched in the message in lower case, and a class; the first that is found decides, so
the order matters: what ran out of memory first, then what names its cause, then what is only a consequence. Nothing
here means PREEMPTED: a word in a message does not prove that a node was taken away; Ray says so by a type.
"""

import re

from orchestrator.failures.failure_class import FailureClass as F

_GPU = r"\b(?:cuda|hip|rocm|xpu|npu|mps|gpu|cublas|cudnn|cusolver|cusparse|cufft|curand|hipblas|miopen)"

# Memory. "Cuda failure 2 'out of memory'" is how NCCL quotes it.
_MEMORY: tuple[tuple[str, F], ...] = (
    (r"shared memory[^\n]*too many open files", F.INFRA_TRANSIENT),
    (r"shared memory (?:object|segment|limit|region)", F.HOST_OOM),
    (r"/dev/shm[^\n]*(?:no space left|cannot allocate|bus error)", F.HOST_OOM),
    (r"(?:no space left on device|bus error)[^\n]*/dev/shm", F.HOST_OOM),
    (r"in object store because it is full|objectstorefullerror", F.HOST_OOM),
    (r"unable to (?:mmap|write to file|resize)[^\n]*torch_|insufficient shared memory", F.HOST_OOM),
    (r"dataloader worker[^\n]*killed by signal: (?:killed|bus error)", F.HOST_OOM),
    (r"dataloader worker \(pid\(s\)[^\n]*exited unexpectedly", F.HOST_OOM),
    (r"host_allocation_failed", F.HOST_OOM),
    (rf"{_GPU}[^\n]{{0,120}}out of memory|out of memory[^\n]{{0,40}}{_GPU}", F.GPU_OOM),
    (rf"{_GPU}[^\n]*(?:alloc(?:ation)?_failed|memory allocation fail)", F.GPU_OOM),
    (r"cuda_error_out_of_memory|cudaerrormemoryallocation", F.GPU_OOM),
    (r"unable to find a valid cudnn algorithm", F.GPU_OOM),  # what cuDNN says when no workspace fits
    (r"resource_exhausted: out of memory|out of device memory|failed to cuda (?:host )?[mc]alloc", F.GPU_OOM),
    (r"defaultcpuallocator|std::bad_alloc|not enough memory: you tried to allocate", F.HOST_OOM),
    (r"cannot allocate memory", F.HOST_OOM),
    (r"memory on the node[^\n]*was low|node running low on memory|low on resource: memory", F.HOST_OOM),
    (r"oom[ _-]?kill|killed by the (?:cgroup )?(?:oom|out-of-memory)|out of memory: kill|invoked oom", F.HOST_OOM),
    (r"task \d+: out of memory|\b[1-9]\d* workers[^\n]{0,20}killed due to memory pressure", F.HOST_OOM),
    (r"node had condition: \[memorypressure", F.HOST_OOM),
    (r"exceeded[^\n]{0,20}memory limit", F.HOST_OOM),
    (r"malloc of size \d+ failed|realloc of size \d+ failed|unable to allocate [\d.]+ [kmgtp]ib", F.HOST_OOM),
    (r"memory allocation of \d+ bytes failed", F.HOST_OOM),
)

_NUMERIC: tuple[tuple[str, F], ...] = (
    (r"returned nan values in its|is non-finite, so it cannot be clipped|loss scale already at minimum", F.NUMERIC),
    (r"tensor contains either `inf`, `nan`", F.NUMERIC),
    (r"contained non-finite values|loss is (?:nan|inf|infinite|non-finite|not finite)\b", F.NUMERIC),
)

_CODE: tuple[tuple[str, F], ...] = (
    (r"no module named|modulenotfounderror|cannot import name|failed to import on the worker", F.USER_CODE),
    (r"cannot open shared object file: no such file|out of resource: ", F.USER_CODE),
    (r"device-side assert triggered|cuda_kernel_assert", F.USER_CODE),
    (r"no kernel image is available|kernel image is invalid|unsupported toolchain|unsupported gpu arch", F.PRECHECK),
    (r"invalid device ordinal|invalid device function|device index out of range|invalid device id", F.PRECHECK),
    (r"no (?:cuda|hip) gpus are available|found no nvidia driver|no cuda-capable device", F.PRECHECK),
    (r"driver (?:version )?is (?:insuff|too old)", F.PRECHECK),
    (r"have (?:nccl|mpi|gloo) built in|value for --gpu-architecture", F.PRECHECK),
    (r"forward compatibility was attempted|cuda_error_compat_not_supported", F.PRECHECK),
    (r"driver on your system is too old|not compiled with (?:cuda|nccl|mpi|gloo)|arch_mismatch", F.PRECHECK),
    (r"_version_mismatch|cudnn version incompatib|only supports [a-z]+ gpus or newer", F.PRECHECK),
    (r"cuda_?error_?(?:no_?device|insufficient_?driver|invalid_?device\b|no_?kernel_?image|no_?binary)", F.PRECHECK),
    (r"cuda_?error_?(?:unsupported_?ptx|invalid_?ptx|system_?driver_?mismatch)", F.PRECHECK),
    (r"(?:en|de)coder \w+ not available", F.USER_CODE),
    (r"attempting to deserialize object on (?:a )?cuda device", F.USER_CODE),
    (r"re-initialize cuda in forked|stream is capturing|too many resources requested for launch", F.USER_CODE),
    (r"cuda error: invalid (?:argument|configuration|value|resource handle)", F.USER_CODE),
    (r"(?:cublas|cudnn|cusolver|cusparse)_status_(?:invalid_value|not_supported|bad_param)", F.USER_CODE),
    (r"ncclinvalid(?:usage|argument)|duplicate gpu detected|ncclinvalid", F.USER_CODE),
)

# A death as Ray words it; then error numbers as the C library words them: libraries quote the words, not the number.
_SYSTEM: tuple[tuple[str, F], ...] = (
    (
        r"malloc\(\): |free\(\): |munmap_chunk|double free|stack smashing|corrupted (?:size vs|double-linked)",
        F.NODE_LOST,
    ),
    (r"fatal python error|\bsig(?:segv|abrt|bus|ill|fpe)\b", F.NODE_LOST),
    (r"memory page has hardware error", F.NODE_LOST),
    (
        r"\bbus error\b|segmentation fault encountered|\(core dumped\)|task \d+: (?:segmentation fault|aborted|killed)",
        F.NODE_LOST,
    ),
    (r"due to node failure|\bnode failure on\b|\bnode_fail\b|imminent node shutdown", F.NODE_LOST),
    (r"\bnode ?(?:is )?not ?ready\b|noexecute taint|raylet is terminated", F.NODE_LOST),
    (r"\b[1-9]\d* workers crashed due to other reasons", F.NODE_LOST),
    (r"low on resource: (?:ephemeral|inodes|pids)|node had condition: \[(?:disk|pid)pressure", F.INFRA_TRANSIENT),
    (r"the (?:actor|worker|task)[^\n]{0,40}died|node has died", F.NODE_LOST),
    (r"its owner has died|node has crashed|object's owner has exited", F.NODE_LOST),
    (r"not registered within the timeout|crashed during start", F.NODE_LOST),
    (r"was marked (?:as )?dead|been marked dead|node was terminated", F.NODE_LOST),
    (r"worker process has died|worker died|died unexpectedly|supervisor's node died|abruptly", F.NODE_LOST),
    (r"input/output error|remote i/o error|stale (?:nfs )?file handle", F.INFRA_TRANSIENT),
    (r"transport endpoint is not connected", F.INFRA_TRANSIENT),
    (r"transport endpoint (?:is already|shutdown)", F.INFRA_TRANSIENT),
    (r"cannot send after transport endpoint|host is down", F.INFRA_TRANSIENT),
    (r"no locks available|read-only file ?system|no such device|structure needs cleaning", F.INFRA_TRANSIENT),
    (r"no space left on device|disk quota exceeded|storagefull|file write failed|disk i/o error", F.INFRA_TRANSIENT),
    (r"resource temporarily unavailable|device or resource busy|resource deadlock|text file busy", F.INFRA_TRANSIENT),
    (r"too many open files|can't start new thread|items of ancdata", F.INFRA_TRANSIENT),
    (r"connection (?:reset|refused|aborted|timed out|broken|lost|error)", F.INFRA_TRANSIENT),
    (r"connection (?:is |was |has been |already |been )*(?:unexpectedly )?closed", F.INFRA_TRANSIENT),
    (r"broken pipe|no route to host|network is (?:unreachable|down)|network dropped", F.INFRA_TRANSIENT),
    (r"software caused connection abort|cannot assign requested address", F.INFRA_TRANSIENT),
    (r"(?:address|socket|port(?: \d+)?)(?: is)? already in use", F.INFRA_TRANSIENT),
    (
        r"i/o timeout|socket closed|transfer closed with|hung up unexpectedly|recv error|operation too slow",
        F.INFRA_TRANSIENT,
    ),
    (r"link has been severed|communication error on send|machine is not on the network", F.INFRA_TRANSIENT),
    (r"name resolution|name or service not known|name does not resolve|nodename nor servname", F.INFRA_TRANSIENT),
    (r"no address associated with hostname|failed to (?:resolve|lookup)", F.INFRA_TRANSIENT),
    (r"could(?: not|n't) resolve|dns (?:error|lookup|fail)|no such host|server misbehaving", F.INFRA_TRANSIENT),
    (r"unknown ?host|getaddrinfo|eai_again", F.INFRA_TRANSIENT),
    (r"no usable temporary directory|unknown error \d+", F.INFRA_TRANSIENT),
    (r"no such file or directory|permission denied|operation not permitted|file name too long", F.USER_CODE),
)

_DATA: tuple[tuple[str, F], ...] = (
    (r"cannot identify image|image file is truncated|broken data stream|truncated file read", F.DATA_POISON),
    (r"when reading image file|broken png file", F.DATA_POISON),
    (r"not a (?:jpeg|png|gif|webp|tiff|bmp) file|unknown image file", F.DATA_POISON),
    (r"decompression ?bomb|decoder error -\d|(?:corrupt|premature end of) jpeg", F.DATA_POISON),
    (r"bad (?:jpeg|png|image) ", F.DATA_POISON),
    (r"tile cannot extend outside image|libpng error", F.DATA_POISON),
    (r"not enough image data|contains no image|no more images in|image is incomplete", F.DATA_POISON),
    (r"unsupported (?:bmp|image|jpeg|png|tiff|webp|gif)|failed to read next frame|empty input file", F.DATA_POISON),
    (
        r"bogus (?:huffman|marker|dqt|dht|sampling)|decompressed data too large|buffer is not large enough",
        F.DATA_POISON,
    ),
    (r"!(?:ssize|buf|img)\.empty\(\)|cannot find (?:video|audio) stream", F.DATA_POISON),
    (r"cannot load this image|invalid palette size|marker length must be|token too long in file header", F.DATA_POISON),
    (r"reached eof while|eof: reading array|tjdecompress|unaligned block in ipc|invalid base64 input", F.DATA_POISON),
    (r"unsupported operand \d+|invalid magic number", F.DATA_POISON),
    (r"pickle data was truncated|invalid load key|ran out of input|no data left in file", F.DATA_POISON),
    (r"file seems not fully written|magic string is not correct|storage has wrong byte size", F.DATA_POISON),
    (r"image decode|could not (?:create decoder|decode)|failed to decode|imdecode|!_src\.empty", F.DATA_POISON),
    (r"not a gzipped file|crc check failed|end-of-stream marker|invalid data stream", F.DATA_POISON),
    (r"incorrect header check", F.DATA_POISON),
    (r"error -\d while (?:decompressing|preparing)|zstd decompress", F.DATA_POISON),
    (r"corrupt(?:ed)? (?:snappy|input|deflate|lz4|data|block|file)", F.DATA_POISON),
    (r"(?:lz4|snappy|brotli|zlib|gzip|zstd|inflate)[^\n]{0,40}(?:corrupt|decompress|fail|invalid)", F.DATA_POISON),
    (r"parquet magic|size reported by footer|couldn't deserialize thrift", F.DATA_POISON),
    (r"tprotocolexception|thrift lpayload|unexpected end of stream", F.DATA_POISON),
    (r"either the file is corrupted|file is too small|malformed levels", F.DATA_POISON),
    (r"not an? (?:arrow|parquet|feather|orc|ipc)\b[^\n]{0,20} file", F.DATA_POISON),
    (r"page was smaller|invalid (?:or unsupported )?page|column chunk", F.DATA_POISON),
    (r"dictionary index|ipc (?:message|metadata|stream)|flatbuffers?\b|reading schema message", F.DATA_POISON),
    (r"metadata bytes, but only read|bytes for message body, got|page header failed", F.DATA_POISON),
    (r"(?:csv|json) parse error", F.DATA_POISON),
    (r"file signature not found|truncated file|bad object header|b-tree", F.DATA_POISON),
    (r"filter returned failure|inflate\(\)", F.DATA_POISON),
    (
        r"(?:can't|unable to) [^\n]*\((?:file |wrong |bad |inflate|can't|unable to|invalid|addr |incorrect)",
        F.DATA_POISON,
    ),
    (r"pytorchstreamreader|not a zip (?:archive|file)|central directory|file is not a zip", F.DATA_POISON),
    (r"bad checksum|checksum (?:mismatch|error|failed)|bad magic|invalid header", F.DATA_POISON),
    (r"unexpected end of (?:file|data|header|input)", F.DATA_POISON),
    (r"while deserializing (?:header|metadata)|error while deserializing|headertoo", F.DATA_POISON),
    (r"metadataincomplete", F.DATA_POISON),
    (r"\bcorrupt(?!ed/incomplete data)|failed to decompress", F.DATA_POISON),  # not: what NCCL warns of
    (r"file size is \d+ bytes|but only got|unpack(?:_from)? requires a buffer", F.DATA_POISON),
    (r"invalid data found when processing input|moov atom not found", F.DATA_POISON),
    (r"file could not be opened successfully", F.DATA_POISON),
)

_NODE: tuple[tuple[str, F], ...] = (
    (r"dataloader timed out after", F.HANG),
    (r"dataloader worker[^\n]*killed by signal", F.NODE_LOST),
    (r"uncorrectable|gpu is lost|fallen off the bus|\bxid\b[^\n]{0,30}\d|(?:un)?contained ecc", F.NODE_LOST),
    (r"nvlink error|gpu requires reset", F.NODE_LOST),
    (r"\b(?:cuda|hip|cublas|cudnn|cusolver|cufft|curand)(?: driver| runtime)? (?:error|failure)", F.NODE_LOST),
    (r"cuda_error_[a-z]|cudaerror[a-z]|\bnvml|driver initialization failed|\bmmu fault", F.NODE_LOST),
    (r"pin memory thread exited|error from cudagetdevicecount|determine the device handle", F.NODE_LOST),
    (r"hsa_status_error|memory access fault by gpu|actor \w+ is unavailable", F.NODE_LOST),
    (r"_status_(?:internal|execution|not_init|mapping)", F.NODE_LOST),
    (r"cuda unknown error|illegal memory access|unspecified launch failure|misaligned address", F.NODE_LOST),
    (r"died with <signals\.sig|terminated with signal|signal 9 \(sigkill\)", F.NODE_LOST),
    (r"exitcode: -9|killed by signal|health check", F.NODE_LOST),
    (r"cannot be scheduled|insufficient cluster resources|no available node types|unschedulable", F.CAPACITY),
    (r"insufficient_?(?: instance)?_?capacity|insufficientinstancecapacity|_pool_exhausted", F.CAPACITY),
    (
        r"\d+/\d+ nodes are available|have sufficient [^\n]{0,40}capacity|n[o']t have enough resource",
        F.CAPACITY,
    ),
    (r"requested nodes are busy|nodes required for job are|is not schedulable", F.CAPACITY),
    (r"worker group (?:startup|start-up)[^\n]*timed? ?out|resources? (?:to become|are not) available", F.CAPACITY),
)

_GROUP: tuple[tuple[str, F], ...] = (
    (
        r"taking the entire process down|collective timeout|recvvalue failed|sendbytes failed|failed to recv",
        F.INFRA_TRANSIENT,
    ),
    (r"\bnccl|processgroup|watchdog caught|collective operation timeout|communicator was aborted", F.INFRA_TRANSIENT),
    (
        r"\bgloo\b|caused pair closure|monitoredbarrier|store[- ]based barrier|waiting for clients|rendezvous|rdzv",
        F.INFRA_TRANSIENT,
    ),
    (r"wait timeout after|socket timeout|client socket|server socket|tcpstore|store->get|c10d", F.INFRA_TRANSIENT),
    (r"stop_waiting response|net/ofi|got completion (?:from peer|with error)", F.INFRA_TRANSIENT),
    (r"timed out waiting", F.INFRA_TRANSIENT),
    (r"timed out (?:after|in|during|while|connecting|initializing)", F.INFRA_TRANSIENT),
    (r"operation timed out", F.INFRA_TRANSIENT),
    (r"failed to connect to (?:gcs|the gcs|ray|raylet)|gcs (?:is|server)|rpc ?error", F.INFRA_TRANSIENT),
    (
        r"node has not been updated within|keepalive watchdog|failed to connect to (?:all addresses|remote host)",
        F.INFRA_TRANSIENT,
    ),
    (r"statuscode\.unavailable", F.INFRA_TRANSIENT),
)

_SERVICES: tuple[tuple[str, F], ...] = (
    (r"slow ?down|reduce your request rate|throttl|too many requests|rate exceeded", F.INFRA_TRANSIENT),
    (r"rate limit|quota exceeded", F.INFRA_TRANSIENT),
    (r"request_?limit_?exceeded|provisionedthroughput|requesttimeout", F.INFRA_TRANSIENT),
    (r"requesttimetooskewed|expiredtoken|serverbusy", F.INFRA_TRANSIENT),
    (r"service ?unavailable|internal ?(?:server ?)?error|bad gateway", F.INFRA_TRANSIENT),
    (r"gateway time-?out|backend ?error", F.INFRA_TRANSIENT),
    (
        r"(?:temporarily|currently)[ _]unavailable|try again later|operationaborted|server is busy|connection pool",
        F.INFRA_TRANSIENT,
    ),
    (r"\b(?:http|status|error|code|response)\b[^\n\d]{0,24}\b(?:408|425|429|5\d\d)\b", F.INFRA_TRANSIENT),
    (r"\b(?:408|425|429|5\d\d) (?:server|client) error", F.INFRA_TRANSIENT),
    (
        r"max retries exceeded|incomplete ?read|chunk ?length|chunked (?:encoding|read)|premature(?:ly)? (?:end|clos)",
        F.INFRA_TRANSIENT,
    ),
    (r"response ended prematurely|network_connection", F.INFRA_TRANSIENT),
    (r"peer closed connection|server disconnected|remote end closed", F.INFRA_TRANSIENT),
    (r"connect(?:ion)? ?error|not enough data for", F.INFRA_TRANSIENT),
    (
        r"\b(?:ssl|tls)\b|certificate|handshake|\b(?:sslv3|tlsv1) alert|unexpected_eof|wrong_version_number",
        F.INFRA_TRANSIENT,
    ),
    (r"decryption_failed|in violation of protocol", F.INFRA_TRANSIENT),
    (r"(?:read|write|connect|request|operation|pool|socket) ?time(?:d)? ?-?out", F.INFRA_TRANSIENT),
    (r"timed out|deadline ?exceeded|(?:deadline|timeout) of [\d.]+ ?s? ?exceeded", F.INFRA_TRANSIENT),
    (r"check your (?:internet )?connection|network issues|not in a valid json format", F.INFRA_TRANSIENT),
    (
        r"could not connect|couldn't connect|error sending request|error decoding response body|hyper::|reqwest",
        F.INFRA_TRANSIENT,
    ),
    (r"contact slurm controller|zero bytes were transmitted|\betcdserver: ", F.INFRA_TRANSIENT),
    (r"currently unable to handle the request|https?://[^\s\"]*\"?: (?:unexpected )?eof\b", F.INFRA_TRANSIENT),
    (r"server closed the connection|database is locked|database system is", F.INFRA_TRANSIENT),
    (r"can't reconnect until invalid transaction", F.INFRA_TRANSIENT),
    (r"too many (?:connections|clients)|connection slots are reserved|terminating connection", F.INFRA_TRANSIENT),
    (
        r"read-?only (?:transaction|database)|conflict with recovery|not serialize access|deadlock detected",
        F.INFRA_TRANSIENT,
    ),
    (r"database or disk is full|unable to open database file", F.INFRA_TRANSIENT),
    (r"caller does not have [\w. ]+ access|permission '[\w.]+' denied", F.USER_CODE),
    (r"access[ _]?denied|forbidden|unauthorized|no_?such_?(?:bucket|key|upload)", F.USER_CODE),
    (r"invalidaccesskey|signaturedoesnotmatch", F.USER_CODE),
    (r"\b(?:http|status|error|code|response)\b[^\n\d]{0,24}\b4\d\d\b|\b4\d\d client error", F.USER_CODE),
)


def _compiled(rules: tuple[tuple[str, F], ...]) -> tuple[tuple[re.Pattern[str], F], ...]:
    return tuple((re.compile(pattern), failure) for pattern, failure in rules)


ALL = _compiled((*_MEMORY, *_NUMERIC, *_CODE, *_SYSTEM, *_DATA, *_NODE, *_GROUP, *_SERVICES))
# Those that decide for Ray's error of a dead process: the rest of its text describes Ray's own connections.
FOR_DEATHS = _compiled((*_MEMORY, *_NUMERIC, *_CODE))
# Those that also decide for errors like ValueError and ImportError: of a broken disk or connection, or of broken data.
FOR_USER_ERRORS = _compiled((*_NUMERIC, *_SYSTEM, *_DATA[:-1]))
