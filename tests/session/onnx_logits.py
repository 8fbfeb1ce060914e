"""python onnx_logits.py FOLDER OUT.npy TOKEN…: the logits of an ONNX artifact, by edgebench's own runner."""

import sys
from pathlib import Path

import numpy as np

from edgebench.core.types import Settings
from edgebench.runners.onnx import Onnx

with Onnx().load(Path(sys.argv[1]), Settings(n_threads=1)) as session:
    tokens = [int(word) for word in sys.argv[3:]]
    session.open(n_ctx=len(tokens))
    np.save(sys.argv[2], session.logits(tokens, 0))
