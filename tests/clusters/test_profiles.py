"""Profiles from files, and the clusters that are made from them."""

from pathlib import Path

import pytest

from clusters.connect import cluster_of_this_job, connect
from clusters.profiles import LocalProfile, RayJobsProfile, RayProfile, load_profile, profile_at
from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import RecipeError


def written(folder: Path, text: str) -> Path:
    file = folder / "profile.yaml"
    file.write_text(text)
    return file


def test_a_profile_of_each_kind(tmp_path: Path) -> None:
    assert load_profile(written(tmp_path, "kind: local\ncpus: 4\n")) == LocalProfile(cpus=4.0)
    text = "kind: ray\naddress: ray-head:6379\ntoken_file: /run/token\n"
    assert load_profile(written(tmp_path, text)) == RayProfile(address="ray-head:6379", token_file="/run/token")


def test_an_address_means_jobs_on_that_cluster(tmp_path: Path) -> None:
    assert profile_at("http://head:8265") == RayJobsProfile(address="http://head:8265")
    assert profile_at(str(written(tmp_path, "kind: local\n"))) == LocalProfile()
    with pytest.raises(RecipeError, match=r"--cluster: address: found 'ray://head:10001', expected 'http://host:port'"):
        profile_at("ray://head:10001")


def test_a_jobs_cluster_takes_every_stage_and_its_token_stays_secret(tmp_path: Path) -> None:
    profile = RayJobsProfile(address="http://head:8265", command="python -m more", environment={"A": "b"})
    jobs = connect(profile, {"RAY_AUTH_TOKEN": "secret"}).jobs
    assert jobs == RayJobs(address="http://head:8265", token="secret", command="python -m more", environment={"A": "b"})
    assert "secret" not in repr(jobs)


def test_a_stage_driver_works_only_inside_a_job(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="RAY_ADDRESS is not set"):
        cluster_of_this_job({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpus: 4\n", "kind: found None, expected one of: local, ray, ray_jobs, kuberay, slurm"),
        ("kind: lsf\n", "kind: found 'lsf', expected one of: local, ray, ray_jobs, kuberay, slurm"),
        ("kind: slurm\n", "folder: missing"),
        ("kind: slurm\nfolder: /s\nmachines: {a: {cpus: 2, partitions: x}}\n", "did you mean 'partition'"),
        ("- local\n", "kind: found None"),
        ("kind: local\ncpu: 4\n", "did you mean 'cpus'"),
        ("kind: local\ncpus: many\n", "expected a number"),
        ("kind: local\ncpus: -1\n", "cannot be negative"),
        ("kind: local\nobject_store_mib: 10\n", "expected 75 or more"),
        ("kind: ray\n", "address"),
        ("kind: ray\naddress: http://ray-head\n", "expected 'host:port'"),
        ("kind: ray_jobs\naddress: ray-head:8265\n", "expected 'http://host:port'"),
        ("kind: ray\naddress: ray-head:6379\ntoken: secret\n", "did you mean 'token_file'"),
    ],
)
def test_mistakes_in_a_profile_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=r"profile\.yaml") as failure:
        load_profile(written(tmp_path, text))
    assert message in str(failure.value)


def test_a_local_profile_starts_nothing_by_itself() -> None:
    cluster = connect(LocalProfile(cpus=3.0))
    assert isinstance(cluster, Cluster)
    assert cluster.cpus == 3.0


def test_the_default_cpus_are_those_of_this_process() -> None:
    assert connect(LocalProfile()).cpus == Cluster(LocalRay()).cpus >= 1.0


def test_a_token_file_must_hold_a_token(tmp_path: Path) -> None:
    empty = tmp_path / "token"
    with pytest.raises(RecipeError, match="cannot read"):
        connect(RayProfile(address="ray-head:6379", token_file=str(empty)))
    empty.write_text("\n")
    with pytest.raises(RecipeError, match="is empty"):
        connect(RayProfile(address="ray-head:6379", token_file=str(empty)))


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    cluster = connect(RayProfile(address="ray-head:6379", token_file=str(file)))
    assert "s3cret" not in repr(vars(cluster))
