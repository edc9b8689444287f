"""Papers alone, without a server: what they prove, and a light for each thing that they show."""

from __future__ import annotations

import time

from quiesce.diagnosis.checks import checks
from quiesce.diagnosis.reading import facts_of
from quiesce.model.diagnosis import Examination
from quiesce.model.papers import Papers


def examine(papers: Papers) -> Examination:
    """What is wrong in the guest that these papers are from, as far as they show it."""
    began = time.monotonic()
    facts = facts_of(papers)
    return Examination(
        subject=papers.source,
        checks=checks(facts),
        channels=(),
        seconds=time.monotonic() - began,
    )
