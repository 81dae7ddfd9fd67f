#!/bin/sh
# Builds the image from the wheel with podman (ENGINE=docker: with that) and tries what pods do with it: the program and a
# plan, Ray's head with the check that KubeRay asks, a whole small run, all as its own user, without network and rights.
#
#   make wheel && sh clusters/try_image.sh                   # CUDA
#   make wheel && TORCH_INDEX=URL sh clusters/try_image.sh   # CPU: URL of PyTorch's index of CPU wheels
set -eu
cd "$(dirname "$0")/.."
engine=${ENGINE:-podman} image=${IMAGE:-localhost/illume:try}
"$engine" build -f clusters/Containerfile -t "$image" --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" .

inside() {
    "$engine" run --rm --network=none --cap-drop=ALL --security-opt=no-new-privileges --shm-size=1g "$image" sh -ec "$1"
}
expected=$(ls build/wheel/*.whl | sed 's/.*illume_orchestrator-\([^-]*\)-.*/\1/')
inside 'test "$(id -u)" = 1000 && illume --version' | grep -F "$expected"
inside 'illume plan quickstart --tracking none > /dev/null'
inside 'ray start --head --disable-usage-stats && for _ in $(seq 30); do
    wget -qO- http://127.0.0.1:52365/api/local_raylet_healthz && exit 0; sleep 1; done; exit 1'
inside 'illume run quickstart --tracking none --until ingested && illume status --json > /dev/null'
inside 'if env | grep -iE "(password|secret|token)="; then exit 1; fi'
echo "$image is built and does what pods need"
