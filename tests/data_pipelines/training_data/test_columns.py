"""Columns as mapped files: what was appended is read, and damage is named."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.training_data.columns import open_columns, writing_columns

COLUMNS = {"ids": ("u1", 4), "sizes": ("<i8", 1)}


def test_what_was_appended_is_mapped(tmp_path: Path) -> None:
    ids = np.arange(20, dtype=np.uint8).reshape(5, 4)
    with writing_columns(tmp_path, "part-", COLUMNS) as writer:
        writer.append({"ids": ids[:2], "sizes": np.array([7, 8], np.int32)})
        writer.append({"ids": ids[2:], "sizes": np.array([9, 10, 11])})
        assert writer.num_rows == 5
        with pytest.raises(ValueError, match=r"columns of \[1, 2\] rows"):
            writer.append({"ids": ids[:2], "sizes": np.array([7])})
    found = open_columns(tmp_path, "part-", COLUMNS, 5)
    assert isinstance(found["ids"], np.memmap)
    assert (found["ids"] == ids).all()
    assert found["sizes"].tolist() == [7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="ids has 20 bytes, expected 24"):
        open_columns(tmp_path, "part-", COLUMNS, 6)


def test_no_rows_are_columns_too(tmp_path: Path) -> None:
    with writing_columns(tmp_path, "", COLUMNS):
        pass
    assert {name: values.shape for name, values in open_columns(tmp_path, "", COLUMNS, 0).items()} == {
        "ids": (0, 4),
        "sizes": (0,),
    }
