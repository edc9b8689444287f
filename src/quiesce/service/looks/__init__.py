"""Facts about one VM through every channel that still answers."""

from quiesce.service.looks.looks import Looks, Seen

__all__ = ["Looks", "Seen"]
