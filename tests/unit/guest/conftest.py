from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import quiesce.guest


@pytest.fixture(scope="session")
def extension_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension as it is shipped: the folder's files, zipped flat."""
    path = tmp_path_factory.mktemp("extension") / "quiesce-extension.zip"
    with zipfile.ZipFile(path, "w") as archive:
        folder = Path(quiesce.guest.__file__).parent
        for source in sorted([*folder.glob("*.py"), *folder.glob("*.sh")]):
            archive.write(source, source.name)
    return path
