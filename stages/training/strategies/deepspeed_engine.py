"""Makes DeepSpeed engines of passes. The only file, with `zero_states.py`, that knows how DeepSpeed works.

Written for deepspeed 0.19. It reads its gradient norms before the step, which no public function of it returns.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import Pass
from stages.training.strategies.prechecks import check_units

SHARED_MEMORY_OP = "deepspeed_shm_comm"


def prepare_process(worker: WorkerRank) -> None:
    """What must be so before the first engine: a process group, also of one worker, and no kernel to compile."""
    import deepspeed
    from deepspeed.runtime.zero import parameter_offload

    if not dist.is_initialized():
        backend = "nccl" if worker.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ["LOCAL_RANK"] = str(worker.device.index or 0)  # DeepSpeed takes the device from it
    if worker.device.type == "cpu":
        # It would compile a kernel for communication inside a node, at every start.
        deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # else a hundred lines at every start
    parameter_offload.FWD_MODULE_STACK.clear()  # would keep the model from before a rollback in memory
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)


def make_engine(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    training_pass: Pass,
    *,
    loop: LoopConfig,
    execution: TrainingExecution,
) -> Any:
    """The engine of a pass. `module` is what to call; the optimizer's parameters become flat partitions."""
    import deepspeed
    from deepspeed.utils.z3_leaf_module import set_z3_leaf_module

    stage = execution.zero_stage
    if training_pass.units is None:  # other passes use its parameters too, so they stay whole
        stage = min(stage, 2)
    if stage == 3:
        kinds = {type(unit) for unit in training_pass.units or ()}
        check_units(kinds)
        # Layers of one kind follow one another and are gathered as a whole. Blocks of several kinds, as in a UNet, pass
        # tensors around one another, so that they begin and end several times: they are gathered in pieces.
        for unit in training_pass.units or () if len(kinds) == 1 else ():
            set_z3_leaf_module(unit, True)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=engine_config(loop, stage=stage, cpu_offload=execution.cpu_offload),
        dist_init_required=False,
    )
    if stage == 3:
        _keep_whole_outside_units(engine, training_pass)
    return engine


def engine_config(loop: LoopConfig, *, stage: int, cpu_offload: bool) -> Mapping[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed counts with it, and does nothing else
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**31,
        "gradient_clipping": loop.optimizer.clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # which would have to be compiled
        "zero_optimization": {"stage": stage, "overlap_comm": False},
    }
    if stage == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # all of a unit is divided
    if cpu_offload:
        is_pinned = torch.cuda.is_available()
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": is_pinned}
    if loop.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config


def _keep_whole_outside_units(engine: Any, training_pass: Pass) -> None:
    """Divide the parameters of units only while computing; the others are gathered once a step.

    DeepSpeed expects that all workers run the same modules in the same order. Vision towers run a different number of
    times on each, so modules outside of units lose the hooks that gather and release.
    """
    units = training_pass.units or ()
    inside = {id(parameter) for unit in units for parameter in unit.parameters()}
    whole = engine.optimizer.persistent_parameters  # gathered after each step
    known = {id(parameter) for parameter in whole}
    for parameter in engine.module.parameters():
        if id(parameter) not in inside | known:
            parameter.ds_persist = True
            whole.append(parameter)
    if whole:
        whole[0].all_gather(whole)
    hooked = {id(module) for unit in units for module in unit.modules()}
    others = [module for module in engine.module.modules() if id(module) not in hooked]
    tables = {id(table) for module in others for table in (module._forward_pre_hooks, module._forward_hooks)}
    offload = engine.optimizer.parameter_offload
    for handle in (*offload.forward_hooks, *offload.backward_hooks):
        if id(handle.hooks_dict_ref()) in tables:
            handle.remove()


@torch.no_grad()
def gradient_norm(engine: Any) -> torch.Tensor:
    """Of the whole gradient, before clipping, after the last backward pass of a step; NaN if it is not finite."""
    from deepspeed.runtime.utils import combine_grad_norm_groups

    zero = engine.optimizer
    is_third = engine.zero_optimization_stage() == 3
    norm = combine_grad_norm_groups(zero._get_norm_groups()) if is_third else zero.scaled_global_norm()
    norm = torch.as_tensor(norm)
    return torch.where(norm < 0, norm.new_tensor(float("nan")), norm)  # DeepSpeed says -1
