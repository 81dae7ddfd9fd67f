"""Lets a run that has ended without success wait for a driver again."""

from sqlalchemy import Connection

from orchestrator.history.database.database import Database
from orchestrator.history.events import EventKind, RunState
from orchestrator.history.projection import append_event, lock_run

_MAY_GO_ON = (RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)


def queue_again(database: Database, run_id: str) -> bool:
    """The run is PLANNED again, with its epoch. False: it has not ended, or has succeeded.

    Of two who ask at once only one gets True. Raises: DatabaseError: there is no such run.
    """

    def work(connection: Connection) -> bool:
        run = lock_run(connection, run_id)
        if run.state not in _MAY_GO_ON:
            return False
        fields = {"from": run.state, "to": RunState.PLANNED, "recipe": run.recipe, "message": "queued again"}
        append_event(connection, run_id, EventKind.RUN_STATE, fields, epoch=run.epoch)
        return True

    return database.write(work)
