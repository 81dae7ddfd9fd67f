import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from clusters.allocation import allocate
from clusters.kuberay.config import KubeMachine, KubeRayProfile
from clusters.kuberay.jobs import KubeRayJobs
from clusters.kuberay.manifest import label_value, object_name, quantity_gib, ray_job, to_manifest
from orchestrator.cluster.end_signals import GRACE_VARIABLE
from orchestrator.cluster.jobs import JobSize
from orchestrator.execution.room import job_size
from tests.clusters.kuberay.api_server import strict_schema
from tests.stages.programs import published

NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")


@given(st.text(min_size=1, max_size=120))
def test_names_are_valid_whatever_the_job_is_called(job_id: str) -> None:
    assert NAME.fullmatch(object_name(job_id))


def test_names_always_mean_one_job() -> None:
    names = {object_name(f"illume-r1-{stage}-1-{attempt}") for stage in ("a_b", "a-b", "A-b") for attempt in range(9)}
    assert len(names) == 27
    assert object_name("illume-r1-a-1-1") == object_name("illume-r1-a-1-1")


@given(st.text(max_size=200))
def test_labels_are_valid_whatever_they_say(text: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", label_value(text))


def test_quantities() -> None:
    assert [quantity_gib(gib) for gib in (16.0, 1.5, 0.1)] == ["16Gi", "1536Mi", "103Mi"]


def test_what_is_none_is_left_out() -> None:
    assert to_manifest({"a": (1, {"b": 2})}) == {"a": [1, {"b": 2}]}


def test_a_cluster_without_kueue_is_not_suspended_and_has_no_labels_of_it() -> None:
    profile = KubeRayProfile(namespace="a", image="b", machines={"head": KubeMachine(cpus=4, nodes=2)})
    allocation = allocate(profile.machines, JobSize(workers=6))
    manifest = ray_job(profile, allocation, job_id="illume-r1-a-1-1", arguments="stage-driver", run_id="r1")
    assert "suspend" not in manifest["spec"]
    assert not any("kueue" in label for label in manifest["metadata"]["labels"])
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["groupName"] == "workers"  # "head" is reserved
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    for template in (manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"], group["template"]):
        assert template["spec"]["terminationGracePeriodSeconds"] == 120  # of which the drain has 100
        assert {"name": GRACE_VARIABLE, "value": "20"} in template["spec"]["containers"][0][
            "env"
        ]  # the rest is for the drain


def test_pods_are_drained_before_their_end_and_those_of_spot_machines_at_the_notice_of_their_cloud() -> None:
    machines = {"here": KubeMachine(cpus=4, nodes=2), "spot": KubeMachine(cpus=4, nodes=2, spot=True)}
    profile = KubeRayProfile(namespace="a", image="b", machines=machines, stop_grace_s=120, command="/opt/illume")
    for name in machines:
        allocation = allocate(machines, JobSize(workers=2, machine=name))
        manifest = ray_job(profile, allocation, job_id="illume-r1-a-1-1", arguments="stage-driver", run_id="r1")
        cluster = manifest["spec"]["rayClusterSpec"]
        (group,) = cluster["workerGroupSpecs"]
        (worker,), (head,) = (part["template"]["spec"]["containers"] for part in (group, cluster["headGroupSpec"]))
        for container in (head, worker):
            assert (
                "/opt/illume drain-node --within-s 100 --wait"
                in container["lifecycle"]["preStop"]["exec"]["command"][2]
            )
        assert "postStart" not in head["lifecycle"]
        assert ("postStart" in worker["lifecycle"]) == (name == "spot")


@pytest.mark.parametrize("name", ["quickstart", "illume_plus_3b"])
def test_every_stage_of_the_recipes_is_a_rayjob_that_the_operator_takes(name: str, shared: Path) -> None:
    """On nodes of 8 H100, and nodes without any; judged by the operator's own CRD, unknown fields included."""
    machines = {
        "data": KubeMachine(cpus=64, memory_gib=256, nodes=64),
        "train": KubeMachine(gpu="H100", gpus=8, cpus=96, memory_gib=900, nodes=32),
    }
    profile = KubeRayProfile(
        namespace="mllm", image="registry.example/illume:0.2.0", queue="research", machines=machines
    )
    validator = Draft202012Validator(strict_schema(shared / "specs" / "kuberay" / "ray.io_rayjobs.yaml"))
    for stage in published.recipe(name).stages:
        jobs = KubeRayJobs(profile=profile).sized(job_size(stage.resources))
        manifest = jobs.manifest(f"illume-20261201-101500-a1b2c3-{stage.id}-1-1", "stage-driver", {"run": "r1"})
        assert [error.message for error in validator.iter_errors(manifest)] == [], stage.id
        (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert group["groupName"] == ("train" if stage.resources.gpus else "data"), stage.id
        (container,) = group["template"]["spec"]["containers"]
        gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        assert gpus * group["replicas"] >= stage.resources.workers * stage.resources.gpus, stage.id
