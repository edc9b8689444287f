"""`python paper_server.py DATA_FOLDER`: a real server whose VMs are of paper."""

from __future__ import annotations

import sys
from pathlib import Path

from paper_vm import PaperComposition

from quiesce.api.serve import serve
from quiesce.service.logs import configure_logs
from quiesce.service.service import Service
from quiesce.service.settings import Settings

if __name__ == "__main__":
    settings = Settings(data_folder=Path(sys.argv[1]), port=0, schedule_seconds=0.2)
    configure_logs("info", as_json=True)
    serve(Service(settings, composition=PaperComposition(settings)))
