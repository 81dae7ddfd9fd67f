"""Use of the machine that rank 0 runs on, under the names that MLflow shows as system metrics."""

from collections.abc import Mapping

import psutil
import torch

from stages.training.step_line import SYSTEM

_MIB = 2**20


class SystemMetrics:
    """Asked every few steps; rates are means since the last time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        psutil.cpu_percent()  # the first call begins to measure
        self._network = psutil.net_io_counters()

    def sample(self) -> Mapping[str, float]:
        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
        before, self._network = self._network, network
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MIB,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": psutil.disk_usage("/").percent,
            **self._of_gpu(),
        }
        if network is not None and before is not None:  # None: this system does not count
            found["network_receive_megabytes"] = (network.bytes_recv - before.bytes_recv) / _MIB
            found["network_transmit_megabytes"] = (network.bytes_sent - before.bytes_sent) / _MIB
        return {f"{SYSTEM}{name}": value for name, value in found.items()}

    def _of_gpu(self) -> dict[str, float]:
        if self._device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self._device)
        found = {
            "gpu_0_memory_usage_megabytes": (total - free) / _MIB,
            "gpu_0_memory_usage_percentage": 100 * (total - free) / total,
        }
        try:
            found["gpu_0_utilization_percentage"] = float(torch.cuda.utilization(self._device))
        except (ImportError, RuntimeError):  # NVML is an optional package, and not to be had in every container
            return found
        return found
