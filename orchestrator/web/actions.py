"""What people can change from a page: each calls the function that the command line calls, with who asked on record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.actor import acting_as, current_actor
from orchestrator.commands.run import cancellation_text
from orchestrator.commands.shared.targets import artifact_of_stage
from orchestrator.history.changes import record_change
from orchestrator.history.run_status import run_statuses
from orchestrator.history.run_store import AlreadyDoneError
from orchestrator.queue.servers import live_servers
from orchestrator.retention.pins import is_pinned, pin, unpin
from orchestrator.scheduler.approving import approve
from orchestrator.scheduler.requeuing import queue_anew, queue_rest
from orchestrator.web.addresses import link
from orchestrator.web.page import BadRequestError
from orchestrator.web.service import Service
from orchestrator.web.sign_in.users import Role, User
from orchestrator.web.views.run import summary_of, who_cancelled

MAX_REASON = 500  # characters
Fields = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What an action did."""

    message: str
    link: str  # to the page that shows it


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that can be done, by POST at `path`."""

    name: str
    path: str
    summary: str  # one sentence, for the description of the API
    carry_out: Callable[[Service, Mapping[str, str]], Done]  # with the parts of the path; acts for who asked
    role: Role = Role.OPERATOR

    def run(self, service: Service, user: User, path: Mapping[str, str], fields: Fields) -> Done:
        """Raises: BadRequestError: a field that there is not; whatever the action raises."""
        unknown = set(fields) - {"reason"}
        if unknown:
            raise BadRequestError(f"{self.name}: found {', '.join(sorted(unknown))}, expected at most 'reason'")
        reason = fields.get("reason", "").strip()
        if len(reason) > MAX_REASON:
            raise BadRequestError(f"{self.name}: reason: found {len(reason)} characters, expected at most {MAX_REASON}")
        with acting_as(user.actor(f"{self.name} {':'.join(path.values())}", reason)):
            return self.carry_out(service, path)


def _cancel(service: Service, path: Mapping[str, str]) -> Done:
    """Raises: AlreadyDoneError: somebody was faster. StateConflictError: the run has ended."""
    workspace, run_id = service.workspace(), path["run"]
    run = summary_of(workspace.database, run_id)
    if run.cancel_requested:
        raise AlreadyDoneError(_was_cancelled(who_cancelled(workspace.database, run), run_id))
    cancellation = workspace.cancel(run_id)
    asked = summary_of(workspace.database, run_id)
    first = who_cancelled(workspace.database, asked)
    if first not in ("", current_actor().name):  # both saw that nobody had asked yet
        raise AlreadyDoneError(_was_cancelled(first, run_id))
    return Done(message=cancellation_text(run_id, cancellation), link=link("runs", run_id))


def _resume(service: Service, path: Mapping[str, str]) -> Done:
    """Raises: as `queue_rest`; NotFoundError."""
    workspace, run_id = service.workspace(), path["run"]
    summary_of(workspace.database, run_id)
    queue_rest(workspace, run_id, service.settings.kinds)
    return Done(message=f"run {run_id}: is in the queue{_without_server(service)}", link=link("runs", run_id))


def _run_again(service: Service, path: Mapping[str, str]) -> Done:
    """Raises: as `queue_anew`; NotFoundError."""
    workspace, run_id = service.workspace(), path["run"]
    summary_of(workspace.database, run_id)
    new_id = queue_anew(workspace, run_id, service.settings.kinds)
    return Done(message=f"run {new_id}: is in the queue{_without_server(service)}", link=link("runs", new_id))


def _without_server(service: Service) -> str:
    return "" if live_servers(service.workspace().database) else "; it waits until a server has a scheduler"


def _approve(service: Service, path: Mapping[str, str]) -> Done:
    """Raises: as `approve`; NotFoundError."""
    workspace, run_id, stage_id = service.workspace(), path["run"], path["stage"]
    summary_of(workspace.database, run_id)
    approve(workspace, run_id, stage_id, current_actor().reason)
    return Done(message=f"{run_id}:{stage_id}: approved", link=link("runs", run_id))


def _was_cancelled(who: str, run_id: str) -> str:
    return f"run {run_id}: {who or 'somebody'} asked it to stop already; nothing more was done"


def _pin(service: Service, path: Mapping[str, str]) -> Done:
    return _change_pin(service, path, wanted=True)


def _unpin(service: Service, path: Mapping[str, str]) -> Done:
    return _change_pin(service, path, wanted=False)


def _change_pin(service: Service, path: Mapping[str, str], *, wanted: bool) -> Done:
    """Raises: AlreadyDoneError: it is so already."""
    workspace, run_id, stage_id = service.workspace(), path["run"], path["stage"]
    status = run_statuses(workspace.database, [summary_of(workspace.database, run_id)])[0]
    key = artifact_of_stage(workspace.artifacts, status, stage_id).manifest.key
    if is_pinned(workspace.store, key) == wanted:
        raise AlreadyDoneError(f"{key}: is {'pinned' if wanted else 'not pinned'} already; nothing was changed")
    record_change(workspace.store, "pin" if wanted else "unpin", [str(key)])
    (pin if wanted else unpin)(workspace.store, key)
    service.changes.forget()
    text = "pinned: `illume gc --unneeded-days` keeps it" if wanted else "no longer pinned"
    return Done(message=f"{key}: {text}", link=link("runs", run_id, "stages", stage_id))


ACTIONS: Sequence[Action] = (
    Action(
        name="cancel",
        path="/runs/{run}/cancel",
        summary="Ask a run to stop at its next commit point.",
        carry_out=_cancel,
    ),
    Action(
        name="resume",
        path="/runs/{run}/resume",
        summary="Queue a run that has ended without success, so that a server goes on with it.",
        carry_out=_resume,
    ),
    Action(
        name="again",
        path="/runs/{run}/again",
        summary="Queue a new run of the stages of a run, planned anew.",
        carry_out=_run_again,
    ),
    Action(
        name="approve",
        path="/runs/{run}/stages/{stage}/approve",
        summary="Let a stage start that waits for the word of a person; `reason`: what was looked at.",
        carry_out=_approve,
    ),
    Action(
        name="pin",
        path="/runs/{run}/stages/{stage}/pin",
        summary="Protect the output of a stage from `illume gc --unneeded-days`.",
        carry_out=_pin,
    ),
    Action(
        name="unpin",
        path="/runs/{run}/stages/{stage}/unpin",
        summary="Remove the pin of a stage's output.",
        carry_out=_unpin,
    ),
)
