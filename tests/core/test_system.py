"""What is left where a system has no fcntl and no resource, as Windows has not."""

import ast
import subprocess
import sys
from importlib import reload
from types import SimpleNamespace

import pytest

from ldm.core import system
from tests.test_architecture import GRAPH, MODULES

OF_ONE_SYSTEM = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog",
                 "msvcrt", "winreg", "_winapi"}  # fmt: skip


@pytest.fixture
def elsewhere(monkeypatch):
    """The module as a system without fcntl and resource has it."""
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)  # whose import fails then
    yield reload(system)
    monkeypatch.undo()
    reload(system)


def test_no_module_needs_what_one_system_alone_has():
    for name in MODULES:
        assert not {i.split(".")[0] for i in GRAPH[name]} & OF_ONE_SYSTEM, name


def test_nothing_calls_what_one_system_alone_has():
    only = {"fork", "getuid", "geteuid", "mkfifo", "statvfs", "setsid", "SIGKILL", "SIGUSR1",
            "SIGUSR2", "SIGALRM", "SIGHUP", "sched_getaffinity", "getpgid", "uname"}  # fmt: skip
    for name, path in MODULES.items():
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in ("os", "signal")
        }
        assert not used & only, name


def test_a_lock_is_held_by_one_process(tmp_path):
    with (tmp_path / "lock").open("a") as file:
        assert system.lock(file)
        try_it = "import sys; from ldm.core.system import lock; print(lock(open(sys.argv[1], 'a')))"
        said = subprocess.run(
            [sys.executable, "-c", try_it, tmp_path / "lock"], capture_output=True, text=True
        )
        assert said.stdout == "False\n", said.stderr


def test_without_fcntl_windows_own_lock_is_taken(elsewhere, tmp_path):
    held, refusing = [], False

    def locking(descriptor, mode, length):
        if refusing:
            raise PermissionError(13, "Permission denied")
        held.append((mode, length))

    elsewhere.msvcrt = SimpleNamespace(locking=locking, LK_NBLCK=2)
    with (tmp_path / "lock").open("a") as file:
        assert elsewhere.lock(file) and held == [(2, 1)]
        refusing = True
        assert not elsewhere.lock(file)


def test_without_either_nothing_is_locked_and_nothing_raised(elsewhere, tmp_path):
    with (tmp_path / "lock").open("a") as file:
        assert elsewhere.lock(file)
    assert elsewhere.peak_memory() >= 0


def test_memory_is_counted_in_bytes():
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert 300 << 20 < system.peak_memory() < 64 << 30


@pytest.mark.slow
def test_every_module_imports_without_fcntl_and_resource():
    script = f"""
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None
from importlib import import_module
for name in {sorted(MODULES)!r}:
    import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
