"""The error that all errors about data derive from, also those of `data_pipelines`."""

from typing import ClassVar


class DataError(ValueError):
    """A file or a value that was given is missing, damaged or does not fit: the data are at fault, not the program.

    Takes one message that says where and why. Other programs can tell it by `failure_class`, without importing it.
    """

    failure_class: ClassVar[str] = "data"
