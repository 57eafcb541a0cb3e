"""A Ray cluster of several nodes on this machine, each a raylet with resources of its own; a node can be lost.

    with RayNodes(nodes=2, folder=folder) as cluster:
        cluster.address           # for --address
        cluster.lose_a_node()     # kills all of its processes, and what they have started
        cluster.add_a_node()

No dashboard, no usage statistics, a small object store; after it no process is left.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil

# Cores, bytes of memory as Ray counts them, and of the object store, of each node.
CORES, MEMORY, STORE = 1, 6 * 2**30, 80 * 2**20
# A variable that all processes on a node have.
NODE_NAME = "BENCH_TEST_NODE"
PROGRAMS = ("/supervisor.py", "/run.py")
NODE = {"num_cpus": CORES, "memory": MEMORY, "object_store_memory": STORE, "include_dashboard": False}


class RayNodes:
    """The cluster, in a process of its own that ends with this one."""

    def __init__(self, *, nodes: int = 2, folder: Path) -> None:
        self._nodes, self._folder, self.address = nodes, folder, ""

    def __enter__(self) -> Self:
        """Start the nodes."""
        words = [sys.executable, "-P", __file__, str(self._nodes), str(self._folder)]
        variables = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, start_new_session=True
        )
        self.address = self._ask("address")
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)["answer"]
        raise RuntimeError("the cluster has ended")

    def add_a_node(self) -> None:
        """Start another node."""
        self._ask("add")

    def lose_a_node(self) -> None:
        """Kill the newest node at once, with the runs on it, as a machine that goes dark."""
        for process in self._processes(self._ask("newest")):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._ask("lose")

    def _processes(self, nodes: str) -> list[psutil.Process]:
        """Return the processes of nodes whose names begin so."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(NODE_NAME, "").startswith(nodes):
                    found.append(process)
        return found

    def processes_of_runs(self) -> list[psutil.Process]:
        """Return the supervisors, launchers and runs on all nodes."""
        found = []
        for process in self._processes(f"{self._process.pid}-"):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "accelerate.commands.launch" in words or any(word.endswith(PROGRAMS) for word in words):
                    found.append(process)
        return found


def main() -> int:
    """Start the nodes, and do what is asked line by line until the end of the input."""
    from ray.cluster_utils import Cluster

    os.chdir(sys.argv[2])

    def started(number: int) -> Any:
        # Its workers, and what they start, have it.
        os.environ[NODE_NAME] = f"{os.getpid()}-{number}."
        return cluster.add_node(**NODE)

    os.environ[NODE_NAME] = f"{os.getpid()}-0."
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    nodes = {number: started(number) for number in range(1, int(sys.argv[1]))}
    for line in sys.stdin:
        word, answer = line.strip(), None
        if word == "address":
            answer = cluster.address
        elif word == "newest":
            answer = f"{os.getpid()}-{max(nodes)}."
        elif word == "add":
            number = max(nodes, default=0) + 1
            nodes[number] = started(number)
        elif word == "lose":
            cluster.remove_node(nodes.pop(max(nodes)), allow_graceful=False)
        print(json.dumps({"answer": answer}), flush=True)
    cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
