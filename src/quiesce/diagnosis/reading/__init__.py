"""Papers become facts: one module a subject, and this one that asks them all."""

from quiesce.diagnosis.reading.all import facts_of

__all__ = ["facts_of"]
