"""`python -m stand_in`: set up what the stand-in phone of the tests is built of."""

import subprocess
import sys
import time

from stand_in.packages import NotHere
from stand_in.setup import set_up

start = time.monotonic()
try:
    folder = set_up()
except NotHere as reason:
    sys.exit(f"no stand-in phone: {reason}")
size = subprocess.run(["du", "-sh", folder], capture_output=True, text=True, check=True).stdout.split()[0]
print(f"the stand-in phone is ready: {folder} ({size}, {time.monotonic() - start:.0f} s)")
