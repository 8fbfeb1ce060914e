"""Nothing that edgebench starts looks for a network: not a library's telemetry, not a hub, not an update."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core import registry
from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Format, Settings
from edgebench.runners import native_onnx

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROBE = Path(__file__).with_name("probe_engine.py")
LEVELS = "q8_0,onnx-fp32,onnx-int8,onnx-nbits4,genai-int4"

WATCH = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void tell(const char *what, const char *whom) {
    FILE *log = fopen(getenv("NETWORK_LOG"), "a");
    if (log) { fprintf(log, "%s %s\n", what, whom); fclose(log); }
}
static void tell_address(const char *what, const struct sockaddr *to) {
    char host[INET6_ADDRSTRLEN] = "?", whom[INET6_ADDRSTRLEN + 16];
    const struct sockaddr_in *four = (const void *)to;
    const struct sockaddr_in6 *six = (const void *)to;
    if (!to || (to->sa_family != AF_INET && to->sa_family != AF_INET6)) return;
    int is_four = to->sa_family == AF_INET;
    inet_ntop(to->sa_family, is_four ? (const void *)&four->sin_addr : &six->sin6_addr, host, sizeof host);
    snprintf(whom, sizeof whom, "%s:%d", host, ntohs(is_four ? four->sin_port : six->sin6_port));
    tell(what, whom);
}
#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

int connect(int fd, const struct sockaddr *to, socklen_t n) {
    tell_address("connect", to);
    return REAL(connect)(fd, to, n);
}
int listen(int fd, int backlog) {
    struct sockaddr_storage own;
    socklen_t n = sizeof own;
    if (!getsockname(fd, (struct sockaddr *)&own, &n)) tell_address("listen", (struct sockaddr *)&own);
    return REAL(listen)(fd, backlog);
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t n) {
    tell_address("sendto", to);
    return REAL(sendto)(fd, data, size, flags, to, n);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    tell_address("sendmsg", message->msg_name);
    return REAL(sendmsg)(fd, message, flags);
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    tell("lookup", node ? node : "?");
    return REAL(getaddrinfo)(node, service, hints, out);
}
"""
SERVER = "llama_server"
"""The one engine that is asked over a network: its own process, on loopback."""
PROGRAMS = ("llama_native", "onnx_native")
"""Engines that are no sessions but do whole jobs."""


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


def seen(log: Path) -> list[str]:
    """What asked for the network, each once."""
    return sorted(set(log.read_text().splitlines())) if log.exists() else []


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """What a command begins with to run where there is no network; nothing where that is not permitted."""
    prefix = ["unshare", "--map-root-user", "--net"]
    permitted = shutil.which(prefix[0]) and not subprocess.run([*prefix, "true"], check=False).returncode
    return prefix if permitted else []


def test_the_watcher_sees_a_connection_a_server_and_a_lookup(watcher: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "socket.create_connection(('localhost', s.getsockname()[1]));"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **watched(watcher, log)}, check=True)
    found = seen(log)
    assert "lookup localhost" in found
    assert "sendto 127.0.0.1:9" in found
    [port] = [line.rpartition(":")[2] for line in found if line.startswith("listen 127.0.0.1:")]
    assert f"connect 127.0.0.1:{port}" in found


@pytest.fixture(scope="module")
def ladder(
    watcher: Path,
    tmp_path_factory: pytest.TempPathFactory,
    edgebench_in: Callable[[Path], Any],
    tiny_checkpoint: Path,
    export_tool: Any,
    genai_tool: Any,
) -> Path:
    """A folder of levels by every exporter; `log` beside them says who asked for the network."""
    folder = tmp_path_factory.mktemp("watched")
    done = edgebench_in(folder)(
        *("quantize", tiny_checkpoint, "--to", LEVELS, "--out", ".", "-t", "1"),
        *("--check-chunks", "1", "-o", "json"),
        env=watched(watcher, folder / "log"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_ladder_of_every_exporter_asks_nobody(ladder: Path) -> None:
    assert seen(ladder / "log") == []


@pytest.mark.parametrize("engine", [name for name in registry.names("runners") if name not in PROGRAMS])
def test_an_engine_at_work_asks_nobody(
    engine: str,
    ladder: Path,
    watcher: Path,
    alone: list[str],
    tiny_checkpoint: Path,
    export_tool: Any,
    toy: Any,
    tmp_path: Path,
) -> None:
    runner = registry.load("runners", engine)
    if engine == SERVER:
        runner.prepare(Settings(n_threads=1), print)  # a compiler's work is none of the engine's
    models = {Format.GGUF: ladder / "tiny-q8_0.gguf", Format.SAFETENSORS: tiny_checkpoint}
    models |= {Format.ONNX: ladder / "tiny-genai-int4", Format.SYNTHETIC: toy()}
    log = tmp_path / "log"
    python, own = (export_tool.python, export_tool.environment()) if runner.tool else (sys.executable, {})
    done = subprocess.run(
        [*alone, str(python), "-P", str(PROBE), engine, str(models[runner.formats[0]])],
        env={**os.environ, **own, **watched(watcher, log)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["n_trials"], len(told["logprobs"])) == (3, 3)  # warm-up, repetition, window
    assert all(logprob < 0 for logprob in told["logprobs"])
    if alone:
        assert told["interfaces"] == ["lo"]
    found = seen(log)
    if engine == SERVER:
        own_doors = {line.removeprefix("listen ") for line in found if line.startswith("listen ")}
        assert own_doors
        assert all(door.startswith("127.0.0.1:") for door in own_doors)
        permitted = {f"{what} {door}" for what in ("listen", "connect") for door in own_doors}
        found = sorted(set(found) - permitted - {"lookup 127.0.0.1"})
    assert found == []


@pytest.mark.parametrize("engine", PROGRAMS)
def test_a_program_at_work_asks_nobody(
    engine: str,
    ladder: Path,
    watcher: Path,
    alone: list[str],
    native_program: object,
    tmp_path: Path,
) -> None:
    """llama.cpp's is static and can't be watched: it does its work where there is no network."""
    if engine == "onnx_native":
        try:
            native_onnx.build_here(lambda line: print(line, file=sys.stderr))
        except EdgebenchError as error:
            pytest.skip(f"the program is not there and can't be built: {error.message} ({error.hint})")
    model = ladder / ("tiny-q8_0.gguf" if engine == "llama_native" else "tiny-onnx-fp32")
    log = tmp_path / "log"
    words = ["run", "--runner", engine, "-m", str(model), "--mode", "performance", "--chat", "0"]
    quick = ["-p", "8", "-n", "4", "-r", "1", "--rounds", "1", "-t", "1"]
    done = subprocess.run(
        [*alone, sys.executable, "-m", "edgebench", *words, *quick],
        cwd=tmp_path,
        env={**os.environ, **watched(watcher, log)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert seen(log) == []
