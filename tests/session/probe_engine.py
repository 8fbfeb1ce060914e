"""An engine does all it can: load, a chat, generate, score. Run by its own interpreter:

python probe_engine.py ENGINE MODEL      prints one JSON object

Alone in a network without connections, loopback is brought up first: a server of ours is asked there.
"""

import contextlib
import fcntl
import json
import socket
import struct
import sys
from pathlib import Path

from edgebench.core import registry
from edgebench.core.types import Settings, Workload
from edgebench.session_performance import Canary, measure

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SETTINGS = Settings(n_threads=1, n_batch=128, n_ubatch=128, flash_attn="off", type_k="f32", type_v="f32")


def main(engine: str, model: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, contextlib.suppress(PermissionError):
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP, b""))
    with registry.load("runners", engine).load(model, SETTINGS) as session:
        chat = Workload(n_gen=3, chat=True)
        trials = list(measure(session, chat, Canary(best_s=1.0), seed=0, repetitions=[0]))
        session.open(n_ctx=128, n_seq_max=4)
        context = session.tokenize("What beats in the chest?\nAnswer:")
        options = [session.tokenize(option) for option in (" heart", " liver", " a kidney")]
        [scores] = session.loglikelihoods([(context, options)], n_cells=128)
        [text] = session.generate([context], n_gen=3, n_cells=128)
    told = {
        "n_trials": len(trials),
        "logprobs": [score.logprob for score in scores],
        "n_written": len(text),
        "interfaces": [name for _, name in socket.if_nameindex()],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
