"""KubeRay: each attempt at a stage is a RayJob with a RayCluster of its own, queued by Kueue where there is one."""
