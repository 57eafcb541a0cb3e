"""Not a test: runs several command lines of bench/run.py in one launch. Argument: a JSON file with a list of them."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import run

if __name__ == "__main__":
    codes = [run.main(arguments) for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]
    run.leave()
    sys.exit(max(codes))
