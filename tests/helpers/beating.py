"""Not a test: one process under a watchdog. Its main thread never returns, as from a collective of a dead process.

What the watchdog decides is printed as a line of JSON. Rank zero opens the store, as where no launcher's agent does.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torch.distributed import TCPStore

from bench.distributed.watchdog import ProcessWatchdog

if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        store = TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=True, wait_for_workers=False)

    def file(failure):
        print(json.dumps(dataclasses.asdict(failure)), flush=True)
        return 7

    watchdog = ProcessWatchdog(lambda: "train", file, limit_s=float(sys.argv[1])).start()
    while not (
        watchdog.monitor.heartbeats and all(rank in watchdog.monitor.heartbeats for rank in watchdog.monitor.watched)
    ):
        time.sleep(0.1)
    print("joined", flush=True)
    time.sleep(600)
