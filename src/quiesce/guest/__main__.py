"""Entry of the extension, from its zip (`python3 X.zip COMMAND`) or as `python -m quiesce.guest`.

This file alone must be readable by any Python, old ones included, so that a guest without a
usable interpreter says so instead of showing a syntax error.
"""

import importlib
import json
import sys

OLDEST = (3, 6)


def _refuse_old_python():  # type: ignore[no-untyped-def]
    found = ".".join(str(part) for part in sys.version_info[:3])
    failure = {
        "code": "extension.runtime-missing",
        "message": "The backup extension needs Python 3.6 or newer; %s is Python %s."
        % (sys.executable, found),
        "evidence": [{"fact": "Python " + found, "source": "guest", "raw": sys.version}],
        "remedy": "Install the distribution's python3 package, 3.6 or newer.",
        "retryable": False,
    }
    print(json.dumps({"failure": failure}))
    sys.exit(1)


def _make_zip_root_a_package():  # type: ignore[no-untyped-def]
    """Inside the zip there is no parent package, and the siblings import each other relatively."""
    import types

    package = types.ModuleType("quiesce_extension")
    package.__path__ = [sys.path[0]]
    sys.modules[package.__name__] = package
    return package.__name__


if sys.version_info < OLDEST:
    _refuse_old_python()  # type: ignore[no-untyped-call]
_package = __package__ or _make_zip_root_a_package()  # type: ignore[no-untyped-call]
main = importlib.import_module(_package + ".commands").main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
