import pytest

from clusters.kuberay.config import KubeMachine, KubeRayProfile


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"namespace": "My_Space"}, "namespace: found 'My_Space'"),
        ({"queue": "-a"}, "queue: found '-a'"),
        ({"image": ""}, "an image"),
        ({"machines": {}}, "machines: empty"),
        ({"stop_grace_s": 0}, "at least one second"),
        ({"redis_secret": "a"}, "redis_secret without redis"),
        ({"priority_class": "high"}, "needs a queue"),
    ],
)
def test_profiles_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    given = {"namespace": "mllm", "image": "illume:1", "machines": {"data": KubeMachine(cpus=8)}, **changes}
    with pytest.raises(ValueError, match=message):
        KubeRayProfile(**given)  # type: ignore[arg-type]
