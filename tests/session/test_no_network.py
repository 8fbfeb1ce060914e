"""Nothing that edgebench starts looks for a network: not a library's telemetry, not a hub, not an update."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void tell(const char *what) {
    FILE *log = fopen(getenv("NETWORK_LOG"), "a");
    if (log) { fprintf(log, "%s\n", what); fclose(log); }
}
int connect(int fd, const struct sockaddr *to, socklen_t n) {
    if (to->sa_family == AF_INET || to->sa_family == AF_INET6) tell("connect");
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    return real(fd, to, n);
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t n) {
    if (to && (to->sa_family == AF_INET || to->sa_family == AF_INET6)) tell("sendto");
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        dlsym(RTLD_NEXT, "sendto");
    return real(fd, data, size, flags, to, n);
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    tell(node ? node : "getaddrinfo");
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, out);
}
"""


@pytest.fixture(scope="module")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, loaded into a process and all its children, writes down what asks for the network."""
    compiler = shutil.which(shlex.split(os.environ.get("CC", "cc"))[0])
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("watcher")
    (folder / "watch.c").write_text(WATCH)
    library = folder / "watch.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "watch.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the watching library does not compile here: {done.stderr[:200]}")
    return library


def watched(library: Path, log: Path) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "NETWORK_LOG": str(log)}


def test_the_watcher_sees_a_connection(watcher: Path, tmp_path: Path, edgebench: Any) -> None:
    log = tmp_path / "log"
    code = "import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('127.0.0.1', 9))"
    environment = {**os.environ, **watched(watcher, log)}
    subprocess.run(["python3", "-c", code], env=environment, check=True)
    assert "connect" in log.read_text()


def test_a_ladder_of_every_exporter_asks_nobody(
    watcher: Path,
    tmp_path: Path,
    edgebench: Any,
    tiny_checkpoint: Path,
    export_tool: Any,
    genai_tool: Any,
) -> None:
    log = tmp_path / "log"
    levels = "q8_0,onnx-fp32,onnx-int8,onnx-nbits4,genai-int4"
    done = edgebench(
        *("quantize", tiny_checkpoint, "--to", levels, "--out", "out", "-t", "1"),
        *("--check-chunks", "1", "-o", "json"),
        env=watched(watcher, log),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert not log.exists(), sorted(set(log.read_text().splitlines()))
