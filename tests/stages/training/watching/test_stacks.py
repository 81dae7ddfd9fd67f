"""Which workers of a training that hangs are named."""

from stages.training.watching.stacks import describe_groups, differing_ranks, group_stacks

WAITING = """Thread 0x00007f11 [micro-batches] (most recent call first):
  File "/usr/lib/python3.11/concurrent/futures/thread.py", line 81 in _worker

Current thread 0x00007f{number:02x} (most recent call first):
  File "/env/torch/distributed/distributed_c10d.py", line 2810 in all_reduce
  File "/env/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/code/stages/training/loop.py", line 301 in _sum_over_workers
  File "/code/stages/training/loop.py", line 220 in step
"""
READING = """Current thread 0x00007f99 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1119 in join

Thread 0x00007f98 (most recent call first):
  File "/code/data_pipelines/datasets/reader.py", line 90 in read
  File "/code/stages/training/loop.py", line 140 in _train
"""


def stacks_of(num_workers: int, **others: str) -> dict[int, str]:
    found = {rank: WAITING.format(number=rank % 256) for rank in range(num_workers)}
    return found | {int(name.removeprefix("rank")): text for name, text in others.items()}


def test_equal_stacks_are_one_group_whatever_the_addresses_of_the_threads() -> None:
    groups = group_stacks(stacks_of(512, rank300=READING))
    assert [len(group.ranks) for group in groups] == [511, 1]
    assert [group.waits for group in groups] == [True, False]
    assert differing_ranks(groups) == (300,)
    text = describe_groups(groups, {300: "node-37"})
    assert "and 499 more (wait for others): all_reduce (distributed_c10d.py:2810)" in text
    assert "worker 300 on node-37 (differs): read (reader.py:90) in _train (loop.py:140)" in text


def test_the_one_for_which_many_differ_is_named_even_if_it_is_not_the_smallest_group() -> None:
    """Of two workers one waits: group sizes say nothing."""
    assert differing_ranks(group_stacks({0: READING, 1: WAITING.format(number=1)})) == (0,)


BACKWARD = """Current thread 0x00007f11 (most recent call first):
  File "/env/torch/autograd/graph.py", line 979 in _engine_run_backward
  File "/env/torch/autograd/__init__.py", line 395 in backward
  File "/code/stages/training/loop.py", line 140 in _train
"""
FORWARD = """Current thread 0x00007f12 (most recent call first):
  File "/code/models/mllm/model.py", line 130 in forward
  File "/env/torch/nn/modules/module.py", line 1784 in _call_impl
  File "/env/torch/nn/parallel/distributed.py", line 1715 in _run_ddp_forward
  File "/code/stages/training/loop.py", line 140 in _train
"""


def test_the_exchange_of_gradients_waits_and_a_forward_pass_does_not() -> None:
    assert differing_ranks(group_stacks({0: BACKWARD, 1: FORWARD})) == (1,)


def test_a_worker_without_stacks_differs() -> None:
    groups = group_stacks(stacks_of(3, rank1="no stacks were written"))
    assert differing_ranks(groups) == (1,)
    assert "worker 1 (differs): no stacks were written" in describe_groups(groups, {})


def test_nobody_differs_where_all_are_at_the_same_place() -> None:
    assert differing_ranks(group_stacks(stacks_of(4))) == ()
    assert differing_ranks(group_stacks({0: READING, 1: READING})) == ()
