import pytest

from clusters.grace import check_grace, with_grace
from clusters.kuberay.config import KubeMachine, KubeRayProfile
from clusters.slurm.config import SlurmMachine, SlurmProfile
from orchestrator.cluster.end_signals import GRACE_VARIABLE


def test_a_driver_is_told_the_time_of_its_profile_unless_its_variables_say_it() -> None:
    assert with_grace({"A": "1"}, 45.0) == {"A": "1", GRACE_VARIABLE: "45"}
    assert with_grace({GRACE_VARIABLE: "9"}, 45.0) == {GRACE_VARIABLE: "9"}
    assert with_grace({"A": "1"}, None) == {"A": "1"}


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stop_grace_s: found -1, expected 0 or more seconds"):
        check_grace(-1.0)
    with pytest.raises(ValueError, match="stop_grace_s: found -1"):
        SlurmProfile(folder="/shared", machines={"data": SlurmMachine(cpus=8)}, stop_grace_s=-1.0)
    with pytest.raises(ValueError, match="stop_grace_s"):
        KubeRayProfile(namespace="a", image="b", machines={"data": KubeMachine(cpus=8)}, stop_grace_s=-1)
