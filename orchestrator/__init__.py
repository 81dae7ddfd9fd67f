"""The durable kernel: recipe, plan, identity, artifacts, ledgers, leases, retries, events.

Public, and changed only with a note in CHANGELOG.md:
- `orchestrator.library`: `Workspace`, to plan and run recipes and to open what runs made, from Python and notebooks.
- `orchestrator.stage`: what a stage of your own declares (`StageKind`, `Slot`) and receives (`StageContext`).
- `orchestrator.shards`: the shards of a stage that maps a worker over its data.
- `orchestrator.testing`: a stage's context over plain folders, to test its `run`.
- `orchestrator.errors`: every error that is raised on purpose, each with its exit code.

Example: `from orchestrator.library import Workspace; Workspace.open().plan("quickstart").to_run`
"""
