"""A zipapp with the real boot code and the probe as its application, built once."""

import os
import shutil

import pytest

import build_zipapp
from tests.boot import interpreters

HERE = os.path.dirname(os.path.abspath(__file__))
WHEELS = os.path.join(build_zipapp.ROOT, ".cache", "wheels")


@pytest.fixture(scope="session")
def probe_pyz(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a full zipapp whose application is `probe.py`."""
    root = tmp_path_factory.mktemp("probe")
    package = root / "ic"
    (package / "cli").mkdir(parents=True)
    for name in ("__init__.py", "buildinfo.py"):
        shutil.copy(os.path.join(build_zipapp.ROOT, "ic", name), package / name)
    (package / "cli" / "__init__.py").write_text("")
    shutil.copy(os.path.join(HERE, "probe.py"), package / "cli" / "main.py")
    path = str(root / "ic.pyz")
    build_zipapp.build(path, wheels_directory=WHEELS, root=str(root))
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says on which interpreters the zipapp was run, and which of those on board were not at hand."""
    ran = {label.rpartition(".")[0] for label in interpreters.GOOD}
    versions = [f"{tag[:1]}.{tag[1:]}" for tag in build_zipapp.PYTHONS]
    missing = [version for version in versions if version not in ran]
    missing += ["musl"] if "musl" not in interpreters.GOOD else []
    machines = {tag.split("-")[2] for tag in build_zipapp.TAGS} - {os.uname().machine}
    terminalreporter.write_line(
        f"zipapp run on {', '.join(interpreters.GOOD)}; not at hand: {', '.join([*missing, *sorted(machines)])}"
    )
