"""How long runs of the queue still take, from the times of earlier runs of their stages."""

from sqlalchemy import Connection, select

from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts, database_now
from orchestrator.history.events import AttemptState
from orchestrator.queue.records import Submission


def left_s(database: Database, submission: Submission) -> float | None:
    """Seconds that a run still takes if its estimate is right; None: some stage of it was never timed."""
    if submission.estimate_s is None:
        return None

    def work(connection: Connection) -> float:
        now: float = connection.execute(select(database_now())).scalar_one()
        of_run = select(attempts).where(attempts.c.run_id == submission.run_id, attempts.c.started_at.is_not(None))
        spent = 0.0
        for row in connection.execute(of_run):
            if row.state in (AttemptState.COMMITTED, AttemptState.RUNNING):
                spent += (row.ended_at or now) - row.started_at
        return spent

    return max(0.0, submission.estimate_s - database.read(work))
