import pytest

from clusters.slurm.config import SlurmMachine, SlurmProfile

CPU = SlurmMachine(cpus=32, memory_gib=128, nodes=4, partition="cpu")
SPOT = SlurmMachine(cpus=32, spot=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "shared"}, "expected a path from the root"),
        ({"machines": {}}, "machines: empty"),
        ({"machines": {"a": SlurmMachine()}}, "machines.a.cpus"),
        ({"notice_s": 1}, "at least 10 s"),
        ({"time_limit_min": 2, "notice_s": 120}, "no less than the time limit"),
        ({"head": "dato"}, "head: found 'dato', did you mean 'data'"),
        ({"head": "spot", "machines": {"data": CPU, "spot": SPOT}}, "head: found 'spot', expected one of: data"),
        ({"container_mounts": ("data",)}, "container_mounts: expected paths from the root"),
        ({"container_mounts": ("/a,/b",)}, "container_mounts: expected paths from the root"),
    ],
)
def test_profiles_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlurmProfile(**{"folder": "/shared", "machines": {"data": CPU}, **changes})  # type: ignore[arg-type]
