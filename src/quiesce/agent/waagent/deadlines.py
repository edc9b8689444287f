"""How long each part of asking a guest through its agent may take."""

from __future__ import annotations

from dataclasses import dataclass

from quiesce.agent.session_state import Phase, SessionState
from quiesce.agent.waagent.report import Report, Stage


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds.

    `poll`: from when the agent was to ask for its goal state until it has. `grace`: the same for
    one that has been silent before. `silence`: without any request while it works on a goal state
    (its health thread asks every minute, even then). `handler`: from the goal state to the
    extension's first report; the agent itself allows 900 to install and 300 to enable.
    `first_report`: the same once the agent says that it is done, or is seen to go on: it asks for
    its goal state again, `round` after it has taken this one, which it does only after it has
    worked this one off. `stage`: any stage of the
    extension that depends neither on the hold nor on the operator's scripts. `script`: as long as
    one of those runs; the extension bounds them by their own configuration. `slack`: what a
    report may take through the agent, beyond two of its periods. `turn`: a snapshot's patience
    with what else is being asked of the agent. `look`: how long an examination or a network test
    keeps others from asking; one that takes longer, as where the extension is installed for it
    first, goes on only as long as nobody else wants anything.
    """

    poll: float = 45.0
    grace: float = 15.0
    silence: float = 150.0
    handler: float = 1300.0
    first_report: float = 60.0
    round: float = 15.0
    stage: float = 120.0
    script: float = 7200.0
    slack: float = 15.0
    turn: float = 300.0
    look: float = 30.0

    def of_stage(self, report: Report, hold_seconds: float, period_seconds: float) -> float:
        """How long the extension may stay in the stage that it reports. Writing back precedes the
        freeze and takes a hold at most; the freeze itself takes 0.7 of it."""
        slack = self.slack + 2 * period_seconds
        if _script_runs(report.stage, report.session):
            return self.script
        if report.stage is Stage.FREEZING:
            return 1.7 * hold_seconds + slack
        if report.stage is Stage.SNAPSHOT:
            return hold_seconds + slack
        return self.stage + slack


def _script_runs(stage: Stage, session: SessionState | None) -> bool:
    if session is None or not session.scripts_configured:
        return False
    if stage is Stage.PREPARING:
        return session.phase is Phase.PREPARING and session.pre_script is None
    return stage is Stage.THAWED and session.post_script is None
