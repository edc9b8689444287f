"""Quiesce: self-hosted VM backup with application-consistent snapshots."""

__version__ = "0.1.0"
