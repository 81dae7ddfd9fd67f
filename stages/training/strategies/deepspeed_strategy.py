"""ZeRO of the package deepspeed: optimizer states, gradients and parameters divided among the workers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stages.training.agreement import WorkerRank
from stages.training.checkpoints.reader import check_frozen, check_shapes, open_checkpoint, slot_name
from stages.training.checkpoints.slices import TensorSlice
from stages.training.config import LoopConfig, TrainingExecution
from stages.training.program import MicroBatch, Pass, PassOutput, TrainingProgram, initial_of
from stages.training.strategies.averages import Averages, average_name
from stages.training.strategies.deepspeed_engine import gradient_norm, make_engine, prepare_process
from stages.training.strategies.initial import fill_weights, materialize, names_on_meta
from stages.training.strategies.optimizers import PassOptimizer, slots_by_pass
from stages.training.strategies.tensor_outputs import TensorsOut
from stages.training.strategies.weights import frozen_weights
from stages.training.strategies.zero_states import ZeroStates
from stages.training.strategies.zero_weights import ZeroWeights


class DeepSpeedStrategy:
    """`strategy.Strategy`. Checkpoints are those of all strategies, not DeepSpeed's own."""

    equal_micro_steps = True  # each exchanges data, from stage 2 on

    def __init__(
        self, program: TrainingProgram, loop: LoopConfig, execution: TrainingExecution, worker: WorkerRank
    ) -> None:
        self._worker = worker
        self._frozen = dict(frozen_weights(program, worker).digests)
        if (initial := initial_of(program)) is not None:  # its engines divide whole modules
            unread = names_on_meta(program)
            materialize([training_pass.module for training_pass in program.passes], worker.device)
            fill_weights(program, initial, unread)
        prepare_process(worker)
        self._optimizers = {each.name: PassOptimizer(each) for each in program.passes}
        self._modules = {each.name: TensorsOut(each.module) for each in program.passes}
        self._engines, self._states = dict[str, Any](), dict[str, ZeroStates]()
        for each in program.passes:
            optimizer = self._optimizers[each.name]
            optimizer.build(loop.optimizer)
            module = self._modules[each.name]
            engine = make_engine(module, optimizer.optimizer, each, loop=loop, execution=execution)
            self._engines[each.name], self._states[each.name] = engine, ZeroStates(engine, optimizer.optimizer)
        self._weights = ZeroWeights(
            program,
            self._states,
            trained={name: o.parameters for name, o in self._optimizers.items()},
            frozen=self._frozen,
        )
        decay = loop.average_decay
        self._averages = Averages(self._weights.tensors, decay) if decay else None

    @property
    def frozen(self) -> Mapping[str, str]:
        return self._frozen

    def load(self, folder: Path) -> None:
        names = {name: optimizer.parameter_names for name, optimizer in self._optimizers.items()}
        reader = open_checkpoint(folder, names)
        wanted = dict(self._weights.shapes)
        if self._averages:
            is_kept = {name: average_name(name) in reader.shapes or name not in self._frozen for name in wanted}
            wanted.update({average_name(name): wanted[name] for name, kept in is_kept.items() if kept})
        check_shapes(reader, wanted, where=str(folder))
        check_frozen(reader, self._frozen.items(), where=str(folder))
        self._weights.fill(reader)
        if self._averages:
            self._weights.fill(reader, self._averages.tensors)
        slots = slots_by_pass(reader)
        for name, optimizer in self._optimizers.items():
            optimizer.check_slots(found := slots.get(name, {}))
            for key, parameter in zip(optimizer.parameter_names, optimizer.parameters, strict=True):
                for slot, source in found.get(key, {}).items():
                    self._states[name].fill_slot(parameter, slot, reader, source)
        for states in self._states.values():
            states.weights_were_loaded()

    def begin_step(self, training_pass: Pass, factor: float) -> None:
        self._optimizers[training_pass.name].set_rates(factor)

    def micro_step(
        self, training_pass: Pass, micro_batch: MicroBatch, *, step: int, scale: float, is_last: bool
    ) -> PassOutput:
        engine = self._engines[training_pass.name]
        generator = torch.Generator().manual_seed(micro_batch.seed)
        engine.set_gradient_accumulation_boundary(is_last)
        output = self._modules[training_pass.name].output(engine(micro_batch.data, generator, step))
        engine.backward(output.loss_sum * scale, scale_wrt_gas=False)
        return output

    def evaluate(self, training_pass: Pass, micro_batch: MicroBatch, *, step: int) -> PassOutput:
        engine, generator = self._engines[training_pass.name], torch.Generator().manual_seed(micro_batch.seed)
        with torch.no_grad():
            return self._modules[training_pass.name].output(engine(micro_batch.data, generator, step))

    def clip(self, training_pass: Pass) -> torch.Tensor:
        """The engine's step clips; this measures."""
        return gradient_norm(self._engines[training_pass.name])

    def apply(self, training_pass: Pass) -> None:
        self._engines[training_pass.name].step()

    def end_step(self, step: int) -> None:
        if self._averages:
            self._averages.update(step)

    def learning_rates(self, training_pass: Pass) -> Sequence[float]:
        return self._optimizers[training_pass.name].rates()

    def gradient_norms(self, training_pass: Pass, norm: float) -> Mapping[str, float]:
        """None by part: DeepSpeed keeps gradients in flat tensors until the step."""
        return {}

    def slices(self) -> list[TensorSlice]:
        found = self._weights.slices(self._worker)
        if self._averages:
            found += self._weights.slices(self._worker, self._averages.tensors)
        for name, optimizer in self._optimizers.items():
            for key, parameter in zip(optimizer.parameter_names, optimizer.parameters, strict=True):
                for slot, held in self._states[name].slots(parameter).items():
                    found.extend(held.slices(slot_name(name, key, slot)))
        return found
