"""`KubeRayJobs` with the real client, on a server that judges manifests by the operator's own CRD."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusters.kuberay.config import Claim, KubeMachine, KubeRayProfile, Toleration
from clusters.kuberay.jobs import KubeRayJobs
from clusters.kuberay.manifest import object_name
from orchestrator.cluster.jobs import JobInfo, JobSize, JobState
from orchestrator.errors import NodeLostError, PrecheckError
from tests.clusters.kuberay.api_server import ApiServer, api_server

if importlib.util.find_spec("kubernetes") is None:
    pytest.skip("needs the package kubernetes: pip install 'illume-orchestrator[kubernetes]'", allow_module_level=True)

JOB = "illume-20261130-123625-bd8aee-stage_2-1-1"
RUN = {"run": "20261130-123625-bd8aee", "stage": "stage_2"}
PROFILE = KubeRayProfile(
    namespace="mllm",
    image="registry.example/illume:0.2.0",
    machines={
        "data": KubeMachine(cpus=32, memory_gib=128, nodes=8),
        "train": KubeMachine(
            gpu="H100",
            gpus=8,
            cpus=96,
            memory_gib=900,
            nodes=8,
            node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            tolerations=(
                Toleration(key="nvidia.com/gpu", effect="NoSchedule"),
                Toleration(key="spot", operator="Equal", value="true"),
            ),
            topology="cloud.provider.com/topology-block",
            devices={"rdma/ib": 8},
        ),
    },
    queue="research",
    priority_class="train-high",
    service_account="illume",
    environment={"NCCL_DEBUG": "WARN"},
    secrets=("store-credentials",),
    claims=(Claim(claim="shared", path="/mnt/shared"),),
    time_limit_min=600,
    start_limit_min=60,
    redis="redis.mllm.svc:6379",
    redis_secret="redis",
)
TRAINING = JobSize(workers=32, cpus=8, gpus=1, memory_gib=100)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as found:
        found.queues.add("research")
        yield found


@pytest.fixture
def strict_server(shared: Path) -> Iterator[ApiServer]:
    with api_server(shared / "specs" / "kuberay" / "ray.io_rayjobs.yaml") as found:
        yield found


def jobs_of(server: ApiServer, profile: KubeRayProfile = PROFILE, size: JobSize = TRAINING) -> KubeRayJobs:
    from kubernetes import client

    configuration = client.Configuration(host=server.address)
    configuration.retries = False
    api = client.ApiClient(configuration)
    clients = client.CustomObjectsApi(api), client.CoreV1Api(api)
    return KubeRayJobs(profile=profile, size=size, clients=lambda: clients)


@pytest.mark.parametrize("size", [TRAINING, JobSize(workers=60), JobSize(workers=1, gpus=0.5, memory_gib=1.5)])
@pytest.mark.parametrize(
    "profile",
    [
        PROFILE,
        KubeRayProfile(namespace="a", image="b", machines=PROFILE.machines),
        replace(PROFILE, queue="", priority_class="", pod_priority_class="high", redis_secret=""),
    ],
    ids=["everything", "the least", "without Kueue"],
)
def test_manifests_are_valid_for_the_operator(strict_server: ApiServer, profile: KubeRayProfile, size: JobSize) -> None:
    jobs_of(strict_server, profile, size).submit(JOB, "stage-driver r1 'two words'", RUN)
    assert len(strict_server.objects) == 1


def test_the_server_of_these_tests_refuses_what_the_real_one_refuses(strict_server: ApiServer) -> None:
    manifest = jobs_of(strict_server).manifest(JOB, "stage-driver", RUN)
    assert strict_server.problems(manifest) == []
    for change in (
        {"shutdownAfterJobFinished": True},
        {"backoffLimit": "3"},
        {"rayClusterSpec": {**manifest["spec"]["rayClusterSpec"], "rayversion": "2"}},
    ):
        assert strict_server.problems({**manifest, "spec": {**manifest["spec"], **change}}) != []


def test_a_job_is_judged_before_it_is_created_and_created_once(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver r1", RUN)
    jobs.submit(JOB, "stage-driver r1", RUN)
    path = "POST /apis/ray.io/v1/namespaces/mllm/rayjobs"
    assert server.requests == [f"{path} (dry run)", path, f"{path} (dry run)", path]
    found = server.only()
    assert found["metadata"]["annotations"]["illume.dev/job"] == JOB
    assert found["spec"]["suspend"] is True
    assert found["spec"]["entrypoint"] == "illume stage-driver r1"
    assert found["spec"]["backoffLimit"] == 0
    (group,) = found["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"]) == ("train", 4)
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["resources"]["limits"]["memory"] == "800Gi"
    assert container["envFrom"] == [{"secretRef": {"name": "store-credentials"}}]


@pytest.mark.parametrize(
    ("status", "suspend", "state", "message"),
    [
        ({}, True, JobState.PENDING, "Kueue"),
        ({"jobDeploymentStatus": "Suspended"}, True, JobState.PENDING, "Kueue"),
        ({}, False, JobState.PENDING, "the KubeRay operator"),
        ({"jobDeploymentStatus": "Initializing"}, False, JobState.PENDING, "KubeRay: Initializing"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, False, JobState.RUNNING, ""),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, False, JobState.PENDING, "KubeRay: Running"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, False, JobState.SUCCEEDED, ""),
        (
            {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"},
            False,
            JobState.FAILED,
            "App",
        ),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, False, JobState.PREEMPTED, "time is over"),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "bad"}, False, JobState.FAILED, "bad"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, False, JobState.STOPPED, ""),
    ],
)
def test_states(server: ApiServer, status: dict[str, str], suspend: bool, state: JobState, message: str) -> None:
    jobs = jobs_of(server)
    assert jobs.info(JOB) is None
    jobs.submit(JOB, "stage-driver", RUN)
    server.only()["status"], server.only()["spec"]["suspend"] = status, suspend
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is state
    assert message in info.message


def test_a_job_whose_nodes_kueue_takes_is_over_and_deleted(server: ApiServer) -> None:
    """It would be admitted again later, for an attempt that its controller has given up."""
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    server.only()["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    jobs.info(JOB)
    server.only()["status"] = {"jobDeploymentStatus": "Suspended"}
    server.only()["spec"]["suspend"] = True
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.PREEMPTED
    assert server.objects == {}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def workload(*conditions: dict[str, str], active: bool = True, **status: object) -> dict[str, object]:
    return {"spec": {"active": active}, "status": {"conditions": list(conditions), **status}}


QUOTA = "couldn't assign flavors to pod set head: insufficient unused quota for cpu in flavor default, 4 more needed"
CHECKS = [{"name": "dws", "state": "Pending", "message": "no nodes yet"}, {"name": "multikueue", "state": "Ready"}]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (workload(condition("QuotaReserved", "False", "Pending", QUOTA)), f"Kueue: {QUOTA}"),
        (workload(condition("QuotaReserved", "True", "QuotaReserved"), admissionChecks=CHECKS), "Kueue: dws: no nodes"),
        (workload(active=False), "Kueue: its Workload is deactivated"),
        (workload(), "Kueue"),
        (None, "Kueue"),  # it has not seen the job yet
    ],
)
@pytest.mark.parametrize("version", ["v1beta2", "v1beta1"])
def test_a_job_in_the_queue_waits_with_the_reason_of_kueue(
    server: ApiServer, version: str, found: dict[str, object] | None, message: str
) -> None:
    server.kueue = version
    jobs = jobs_of(server)
    jobs.check()
    jobs.submit(JOB, "stage-driver", RUN)
    if found is not None:
        server.workloads[server.only()["metadata"]["uid"]] = found
    info = jobs.info(JOB)
    assert info is not None
    assert (info.state, info.message[: len(message)]) == (JobState.PENDING, message)
    server.forbidden.add("workloads")  # who may not read them waits all the same
    assert jobs.info(JOB) == replace(info, message="Kueue")


def suspended(server: ApiServer, *conditions: dict[str, str], state: str = "Suspended") -> None:
    found = server.only()
    found["spec"]["suspend"], found["status"] = True, {"jobDeploymentStatus": state}
    server.workloads[found["metadata"]["uid"]] = workload(*conditions)


def running(server: ApiServer, cluster: str) -> None:
    server.only()["spec"]["suspend"] = False
    server.only()["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": cluster}


@pytest.mark.parametrize(
    ("evicted", "state", "message", "by_person"),
    [
        (("Preempted", "for a workload of team b"), JobState.PREEMPTED, "took its nodes for other work: for a", False),
        (("PodsReadyTimeout", "not ready"), JobState.PREEMPTED, "took its nodes for other work: not ready", False),
        (("DeactivatedDueToMaximumExecutionTimeExceeded", ""), JobState.PREEMPTED, "its time is over", False),
        (("DeactivatedDueToRequeuingLimitExceeded", "10 times"), JobState.FAILED, "no nodes any more: 10", False),
        (("Deactivated", "The workload is deactivated"), JobState.STOPPED, "its Workload was deactivated", True),
        (("InactiveWorkload", ""), JobState.STOPPED, "its Workload was deactivated", True),
    ],
)
def test_why_kueue_took_the_nodes_decides_what_follows(
    server: ApiServer, evicted: tuple[str, str], state: JobState, message: str, by_person: bool
) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    running(server, "c1")
    jobs.info(JOB)
    suspended(server, condition("Evicted", "True", *evicted))
    info = jobs.info(JOB)
    assert info is not None
    assert (info.state, info.by_person) == (state, by_person)
    assert message in info.message
    assert server.objects == {}


def test_a_job_whose_nodes_are_taken_runs_until_its_head_has_ended(server: ApiServer) -> None:
    """KubeRay suspends a job at once, while its pods have their grace period for a checkpoint."""
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    running(server, "c1")
    assert jobs.info(JOB) == JobInfo(state=JobState.RUNNING, message="")
    server.heads["c1"] = {"metadata": {"name": "c1-head"}, "status": {"phase": "Running"}}
    for state in ("Suspending", "Suspended"):
        suspended(server, state=state)
        assert jobs.info(JOB) == JobInfo(state=JobState.RUNNING, message="Kueue takes its nodes; its pods are ending")
    assert len(server.objects) == 1
    server.heads["c1"]["status"]["phase"] = "Failed"
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.PREEMPTED
    assert server.objects == {}


def test_a_head_on_a_node_that_nobody_reaches_is_not_waited_for(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    running(server, "c1")
    jobs.info(JOB)
    metadata = {"name": "c1-head", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    server.heads["c1"] = {"metadata": metadata, "status": {"phase": "Running"}}
    suspended(server)
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.PREEMPTED


def test_a_job_that_kueue_admitted_again_while_nobody_looked_is_over_too(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    running(server, "c1")
    jobs.info(JOB)
    running(server, "c2")
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.PREEMPTED
    assert server.objects == {}


def test_unfinished_jobs_of_a_run(server: ApiServer) -> None:
    jobs = jobs_of(server)
    for job, run in ((JOB, "r1"), ("illume-r1-b-1-1", "r1"), ("illume-r2-a-1-1", "r2")):
        jobs.submit(job, "stage-driver", {"run": run})
    server.objects[object_name("illume-r1-b-1-1")]["status"] = {
        "jobDeploymentStatus": "Complete",
        "jobStatus": "SUCCEEDED",
    }
    assert jobs.unfinished_jobs("r1") == [JOB]


def test_a_stop_deletes_the_object_and_can_be_repeated(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    jobs.stop(JOB)
    jobs.stop(JOB)
    assert server.objects == {}


def test_output_is_that_of_the_submitting_pod(server: ApiServer) -> None:
    jobs = jobs_of(server)
    assert jobs.logs(JOB) == ""
    server.outputs[object_name(JOB)] = "2026-11-30 one\ntwo\n"
    assert jobs.logs(JOB) == "2026-11-30 one\ntwo\n"


def test_a_queue_that_does_not_exist_is_found_by_the_check(server: ApiServer) -> None:
    jobs_of(server).check()
    server.queues.clear()
    with pytest.raises(PrecheckError, match="queue 'research'"):
        jobs_of(server).check()


@pytest.mark.parametrize(
    ("refusal", "error", "message"),
    [
        ((403, "rayjobs.ray.io is forbidden"), PrecheckError, "no rights: rayjobs.ray.io is forbidden"),
        ((422, "spec.backoffLimit: Invalid value"), PrecheckError, "Invalid value"),
        ((404, "the server could not find the requested resource"), PrecheckError, "could not find"),
        ((500, "etcd leader changed"), NodeLostError, "etcd leader changed"),
        ((429, "too many requests"), NodeLostError, "too many requests"),
    ],
)
def test_refusals_are_explained(
    server: ApiServer, refusal: tuple[int, str], error: type[Exception], message: str
) -> None:
    server.refusal = refusal
    with pytest.raises(error, match=message):
        jobs_of(server).submit(JOB, "stage-driver", RUN)


def test_a_server_that_is_away_is_waited_for(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    away = ApiServer(validator=None, address="http://127.0.0.1:9")
    with pytest.raises(NodeLostError, match="does not answer"):
        jobs_of(away).info(JOB)


def test_a_job_is_created_once_though_the_answer_is_cut(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit("illume-r1-b-1-1", "stage-driver", RUN)
    server.cut = "POST"
    with pytest.raises(NodeLostError, match="does not answer"):
        jobs.submit(JOB, "stage-driver", RUN)
    server.cut = ""
    jobs.submit(JOB, "stage-driver", RUN)
    jobs.submit(JOB, "stage-driver", RUN)
    assert sorted(server.objects) == sorted(map(object_name, ("illume-r1-b-1-1", JOB)))


def test_a_job_whose_nodes_were_taken_is_told_though_the_answer_to_its_deletion_is_cut(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    server.only()["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    jobs.info(JOB)
    server.only()["status"] = {"jobDeploymentStatus": "Suspended"}
    server.cut = "DELETE"
    info = jobs.info(JOB)
    assert info is not None
    assert info.state is JobState.PREEMPTED
    server.cut = ""
    assert jobs.info(JOB) is None


def test_the_page_of_a_proxy_is_no_answer(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    server.page = "<html>bad gateway</html>"
    with pytest.raises(NodeLostError, match="it answers"):
        jobs.submit("illume-r1-b-1-1", "stage-driver", RUN)
    with pytest.raises(NodeLostError, match="it answers"):
        jobs.info(JOB)
    with pytest.raises(NodeLostError, match="it answers"):
        jobs.unfinished_jobs("r1")


def test_a_job_that_is_listed_is_not_lost(server: ApiServer) -> None:
    jobs = jobs_of(server)
    jobs.submit(JOB, "stage-driver", RUN)
    server.unserved = True
    with pytest.raises(NodeLostError, match=f"lists RayJob {object_name(JOB)}, but does not find it"):
        jobs.info(JOB)
    assert jobs.info("illume-r1-b-1-1") is None


def test_a_worker_that_no_machine_holds_is_refused_before_anything_is_sent(server: ApiServer) -> None:
    with pytest.raises(PrecheckError, match="no machine type"):
        jobs_of(server, size=JobSize(gpus=16)).submit(JOB, "stage-driver", RUN)
    assert server.requests == []
