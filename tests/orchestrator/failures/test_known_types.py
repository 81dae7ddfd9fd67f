"""The tables of error types and numbers name what exists."""

import errno

from orchestrator.failures.known_types import (
    BROKEN_NODE_ERRNOS,
    BY_DEFAULT,
    NETWORK_LIBRARIES,
    PRECISE,
    TRANSIENT_ERRNOS,
)


def test_a_type_is_listed_once_as_module_and_class() -> None:
    names = [*PRECISE, *BY_DEFAULT]
    assert len(names) == len(set(names))
    assert all(name.count(":") == 1 and "." not in name for name in names)
    assert not any(":" in name or "." in name for name in NETWORK_LIBRARIES)


def test_the_types_of_ray_exist() -> None:
    import ray.exceptions
    import ray.train.v2._internal.exceptions
    import ray.train.v2.api.exceptions

    modules = (ray.exceptions, ray.train.v2.api.exceptions, ray.train.v2._internal.exceptions)
    known = {name for module in modules for name in vars(module)}
    listed = {name.partition(":")[2] for name in (*PRECISE, *BY_DEFAULT) if name.startswith("ray:")}
    assert listed <= known


def test_a_missing_or_forbidden_path_is_not_transient() -> None:
    assert not TRANSIENT_ERRNOS & {errno.ENOENT, errno.EACCES, errno.EINVAL, errno.ENOMEM}
    assert not TRANSIENT_ERRNOS & BROKEN_NODE_ERRNOS
