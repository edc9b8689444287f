"""/etc/azure/vmbackup.conf, section [SnapshotThread], as VM backup users know it.

`MountsToSkip` comma-separated; `fsfreeze` False freezes nothing; `timeout` bounds the hold,
`SafeFreezeWaitInSeconds` the time that freezing may take, both in seconds.
`onlyLocalFilesystems` is understood: remote file systems are never touched anyway.
"""

import os
from typing import List, NamedTuple, Optional, Tuple

CONFIG_PATH = "/etc/azure/vmbackup.conf"
_SECTION = "SnapshotThread"


class Settings(NamedTuple):
    skip: Tuple[str, ...] = ()
    freeze: bool = True
    hold_seconds: Optional[float] = None
    freeze_seconds: Optional[float] = None
    warnings: Tuple[str, ...] = ()


def read_settings(path: str = CONFIG_PATH) -> Settings:
    """What the file says. What is not understood there becomes a warning: the defaults are safe,
    and a backup is not to be missed for it."""
    if not os.path.lexists(path):
        return Settings()
    import configparser  # few guests have the file, and every backup waits for the import

    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            parser.read_file(file)
    except (OSError, configparser.Error) as error:
        return Settings(warnings=("{} cannot be read: {}".format(path, error),))
    if not parser.has_section(_SECTION):
        return Settings()
    warnings: List[str] = []

    def seconds(key: str) -> Optional[float]:
        text = parser.get(_SECTION, key, fallback="").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < 86400:
            warnings.append("{}: {} must be a number of seconds, not {!a}".format(path, key, text))
            return None
        return value

    freeze = parser.get(_SECTION, "fsfreeze", fallback="True").strip().lower()
    if freeze not in ("true", "false"):
        warnings.append("{}: fsfreeze must be True or False, not {!a}".format(path, freeze))
    names = parser.get(_SECTION, "MountsToSkip", fallback="").split(",")
    return Settings(
        skip=tuple(name.strip() for name in names if name.strip()),
        freeze=freeze != "false",
        hold_seconds=seconds("timeout"),
        freeze_seconds=seconds("SafeFreezeWaitInSeconds"),
        warnings=tuple(warnings),
    )
