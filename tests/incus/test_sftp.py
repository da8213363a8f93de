"""Files of /proc by sftp: on a real server, and on one that speaks something else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from ic import errors
from ic.incus import client, remotes, sftp, transport
from tests.lab import lab as labs


@pytest.fixture(scope="module")
def running(lab: labs.Lab) -> Generator[tuple[client.Client, str, dict[str, str]]]:
    """A running container, and the query that names its project."""
    of = {"project": "t-sftp"}
    server = remotes.Server(name="lab", socket=str(lab.socket))
    with client.Client(transport.connect(server)) as one:
        lab.sweep("t-sftp")
        config = {"features.images": "false", "features.profiles": "true"}
        one.call("POST", "/1.0/projects", None, {"name": "t-sftp", "config": config})
        source = {"type": "image", "protocol": "oci", "server": "https://docker.io"}
        body = {
            "name": "box",
            "type": "container",
            "profiles": [],
            "config": {"oci.entrypoint": "/bin/sleep 600", "environment.SHOWN": "yes"},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
            "source": {**source, "alias": "library/busybox"},
        }
        one.call("POST", "/1.0/instances", of, body)
        one.call("PUT", "/1.0/instances/box/state", of, {"action": "start"})
        yield one, "/1.0/instances/box", of
        one.call("PUT", "/1.0/instances/box/state", of, {"action": "stop", "force": True})
    lab.sweep("t-sftp")


def test_proc_is_read_where_the_files_api_shows_nothing(
    running: tuple[client.Client, str, dict[str, str]],
) -> None:
    one, instance, of = running
    with sftp.files(one.transport, instance, of, "look") as files:
        numbers = [name for name in files.names("/proc") if name.isdigit()]
        assert "1" in numbers
        environments = [files.read(f"/proc/{number}/environ") or b"" for number in numbers]
        assert any(b"SHOWN=yes\0" in text for text in environments)
        assert (files.read("/proc/1/stat") or b"").startswith(b"1 (")
        assert len(files.read("/bin/busybox", limit=100_000) or b"") == 100_000
        assert files.read("/proc/999999/stat") is None
        assert files.names("/no/such") == []
        assert files.read("/proc/self/mem") in (None, b"")
    assert one.file_get(instance, "/proc/1/stat", of)[1] == b""


def test_an_instance_that_does_not_exist_is_told(
    running: tuple[client.Client, str, dict[str, str]],
) -> None:
    one, _, of = running
    with (
        pytest.raises(errors.NotFound, match="cannot look"),
        sftp.files(one.transport, "/1.0/instances/none", of, "look"),
    ):
        pass


@pytest.mark.parametrize(
    "after", [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\5\2\0\0\0\3" + b"\0\0\0\5\x65abcd"]
)
def test_a_server_that_speaks_no_sftp_is_unreachable(tmp_path: Path, after: bytes) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as one:
                one.recv(65536)
                one.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + after)
                one.settimeout(5)
                one.recv(65536)
                one.shutdown(socket.SHUT_WR)
                while one.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        way = transport.connect(remotes.Server(name="fake", socket=path))
        with (
            pytest.raises(errors.Unreachable),
            sftp.files(way, "/1.0/instances/x", {}, "look") as files,
        ):
            files.read("/etc/passwd")
        thread.join(10)
