from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quiesce.agent.package import build, extension_package
from quiesce.model.failure import ExtensionFailure

FILES = {
    "__main__.py": "import sys\nfrom os.path import basename\nprint(basename(sys.argv[0]))\n",
    "HandlerManifest.json": "[]\n",
    "version.py": 'VERSION = "1.2.3"\n',
    "part/inner.py": "x = 1\n",
}


def source_folder(folder: Path, files: dict[str, str], *, reverse: bool = False) -> Path:
    for name, text in sorted(files.items(), reverse=reverse):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_same_files_give_the_same_bytes_whenever_and_wherever(tmp_path: Path) -> None:
    first = source_folder(tmp_path / "a", FILES)
    second = source_folder(tmp_path / "b", FILES, reverse=True)
    os.utime(second / "__main__.py", (1, 1))
    (second / "__main__.py").chmod(0o700)
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "left.pyc").write_bytes(b"x")
    assert build(first) == build(second)


def test_another_byte_makes_another_version(tmp_path: Path) -> None:
    one = build(source_folder(tmp_path / "a", FILES))
    other = build(source_folder(tmp_path / "b", FILES | {"part/inner.py": "x = 2\n"}))
    assert one.version == other.version == "1.2.3"
    assert one.full_version != other.full_version
    assert one.file_name == f"quiesce-extension-{one.full_version}.zip"


def test_python_runs_the_package_as_it_is(tmp_path: Path) -> None:
    package = build(source_folder(tmp_path / "source", FILES))
    file = tmp_path / package.file_name
    file.write_bytes(package.content)
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(file)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == package.file_name


@pytest.mark.parametrize("missing", ["__main__.py", "version.py"])
def test_an_installation_without_its_files_is_said_to_be_damaged(
    tmp_path: Path, missing: str
) -> None:
    files = {name: text for name, text in FILES.items() if name != missing}
    with pytest.raises(ExtensionFailure) as caught:
        build(source_folder(tmp_path, files))
    assert caught.value.code == "extension.package-corrupt"


def test_the_shipped_extension_is_a_program_that_states_its_version() -> None:
    package = extension_package()
    assert extension_package() is package
    names = zipfile.ZipFile(io.BytesIO(package.content)).namelist()
    assert {"__main__.py", "version.py"} <= set(names)
    assert not [name for name in names if "pycache" in name]


def test_packing_the_extension_does_not_import_it() -> None:
    code = (
        "import sys\n"
        "from quiesce.agent.package import extension_package\n"
        "extension_package()\n"
        "sys.exit(any(name.startswith('quiesce.guest') for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
