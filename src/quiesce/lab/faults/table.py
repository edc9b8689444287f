"""All rows, in the order of their families."""

from quiesce.lab.faults import agents, extension, freeze, load, network, storage, tracking, vm
from quiesce.lab.faults.fault import ROWS, Fault

_ORDER = (
    agents.AGENT,
    network.NETWORK,
    extension.EXTENSION,
    extension.SCRIPT,
    freeze.FREEZE,
    storage.STORAGE,
    load.LOAD,
    tracking.TRACKING,
    vm.VM,
)

TABLE: tuple[Fault, ...] = tuple(sorted(ROWS, key=lambda row: _ORDER.index(row.family)))
"""Every fault that the lab can set in."""
