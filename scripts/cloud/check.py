"""Read tasks by SkyPilot's own loader, without a cloud: `scripts/cloud/check FOLDER...`, in its environment.

scripts/cloud/check FOLDER...       # each FOLDER/skypilot.yaml
scripts/cloud/check --schema FILE   # write SkyPilot's JSON schema of what such a task has
"""

import json
import sys
from pathlib import Path
from typing import Any

import sky
import yaml
from sky.utils import schemas

# Of the schema, what a task of ours never has: the settings of the program, services, and lists of alternatives.
LEFT_OUT = {"task": ("config", "service", "pool"), "resources": ("any_of", "ordered"), "storage": ()}
# What is given to `sky jobs launch` in place of null.
GIVEN = "given-at-the-launch"


def schema() -> dict[str, Any]:
    """Return SkyPilot's schemas of a task, its resources and its storage."""
    found = {
        "task": schemas.get_task_schema(),
        "resources": schemas.get_resources_schema(),
        "storage": schemas.get_storage_schema(),
    }
    for name, keys in LEFT_OUT.items():
        for key in keys:
            found[name]["properties"].pop(key, None)
    return {"skypilot": sky.__version__, **found}


def check(path: Path) -> str:
    """Return a task as SkyPilot has read it, in a line. Raises ValueError for one that it refuses."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    kinds = ("envs", "secrets")
    given = {kind: [key for key, value in content.get(kind, {}).items() if value is None] for kind in kinds}
    task = sky.Task.from_yaml_config(
        content,
        env_overrides=[(key, GIVEN) for key in given["envs"]],
        secrets_overrides=[(key, GIVEN) for key in given["secrets"]],
    )
    asked = sorted({f"{name}:{count}" for one in task.resources for name, count in (one.accelerators or {}).items()})
    machines = f"{task.num_nodes} node(s), {', '.join(asked) or 'no GPU'}"
    return f"{path}: {task.name}, {machines}: read by SkyPilot {sky.__version__}"


def main(words: list[str]) -> int:
    """Check the tasks of folders, or write the schema."""
    if not words or (words[0] == "--schema" and len(words) != 2):
        print(__doc__, file=sys.stderr)
        return 2
    if words[0] == "--schema":
        Path(words[1]).write_text(json.dumps(schema(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    failed = 0
    for folder in words:
        path = Path(folder) / "skypilot.yaml"
        try:
            print(check(path))
        except Exception as error:  # of whatever kind SkyPilot raises
            failed += 1
            print(f"error: {path}: {error}", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
