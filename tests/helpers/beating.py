"""Not a test: one process of a watch. Its main thread never comes back, as from a collective that waits for the dead.

What the watch decides is printed as a line of JSON. Rank zero opens the store, as where no launcher's agent does.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torch.distributed import TCPStore

from bench.distributed.watchdog import Peers

if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        store = TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=True, wait_for_workers=False)

    def file(failure):
        print(json.dumps(dataclasses.asdict(failure)), flush=True)
        return 7

    watch = Peers(lambda: "train", file, limit_s=float(sys.argv[1])).start()
    while not (watch.watch.beats and all(rank in watch.watch.beats for rank in watch.watch.watched)):
        time.sleep(0.1)
    print("joined", flush=True)
    time.sleep(600)
