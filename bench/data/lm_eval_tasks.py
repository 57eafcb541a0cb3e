"""Tasks of lm-evaluation-harness: where their files are, what these say, and the task itself as lm_eval builds it.

What a file says is read here, without building anything; documents, prompts and few-shot examples are lm_eval's own.
"""

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.config import foreign_code
from bench.config.cards import Source
from bench.errors import SetupError, did_you_mean

PREFIX = "lm_eval:"
INSTALL = 'lm-evaluation-harness is not installed: pip install "finetune-bench[lm_eval]"'
# lm_eval's own default, whatever the seed of a run: few-shot examples are those of its own scores.
FEWSHOT_SEED = 1234
_NAME = re.compile(r"^(task|group):[ \t]*[\"']?([^\s\"'\[#]+)", re.MULTILINE)


@dataclass(frozen=True)
class Function:
    """A function that a task's file names with `!function`; it is not imported here. file: which file names it."""

    name: str
    file: Path

    def __repr__(self) -> str:
        """Return it as it is written in the file, wherever that lies."""
        return f"!function {self.name}"


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task's file. settings: its keys, with those of the files that it includes. functions: all that it names."""

    path: Path
    settings: dict[str, Any]
    functions: tuple[Function, ...]

    @property
    def name(self) -> str:
        """The name of the task."""
        return str(self.settings.get("task", self.path.stem))

    @property
    def is_own(self) -> bool:
        """Whether it is one of lm_eval's own tasks."""
        return self.path.is_relative_to(folder())

    @property
    def foreign(self) -> tuple[Function, ...]:
        """The functions that files outside of lm_eval's package name."""
        return tuple(item for item in self.functions if not item.file.is_relative_to(folder()))


@functools.cache
def folder() -> Path:
    """Return the folder of lm_eval's tasks, of which no code runs. Raises SetupError where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(INSTALL)
    return Path(next(iter(spec.submodule_search_locations))).resolve() / "tasks"


@functools.cache
def _known() -> dict[str, tuple[str, Path]]:
    """Return name -> (what it is, "task" or "group", and its file) of all that lm_eval brings."""
    known: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder().rglob("*.yaml")):
        found = _NAME.search(path.read_text(encoding="utf-8", errors="replace"))
        if found is not None:
            known.setdefault(found[2], (found[1], path))
    return known


def find(spec: str) -> Path:
    """Return the file of a task: of a name that lm_eval knows, or of a path that ends in .yaml or has a folder.

    Raises SetupError for what is neither.
    """
    if spec.endswith((".yaml", ".yml")) or "/" in spec or spec.startswith((".", "~")):
        path = Path(spec).expanduser()
        folder()  # whatever the path, lm_eval is needed
        if not path.is_file():
            raise SetupError(f"there is no task file {spec!r} in {Path.cwd()}; expected the YAML file of a task")
        return path.resolve()
    kind, path = _known().get(spec, ("", Path()))
    if kind == "task":
        return path
    if kind == "group":
        raise SetupError(f"{spec!r} is a group of tasks, which lm_eval scores one by one; name one task of it")
    tasks = [name for name, (kind, _) in _known().items() if kind == "task"]
    raise SetupError(f"lm_eval knows no task {spec!r}.{_hint(spec, tasks)}")


def _hint(name: str, known: list[str]) -> str:
    near = did_you_mean(name, known)
    return near if "Did you mean" in near else f" It knows {len(known):,}: lm-eval ls tasks"


def of(source: Source) -> TaskFile:
    """Return the file of a card's task. Raises SetupError where it is missing, or its code is not confirmed."""
    path = Path(str(source.folder)) / _file_name(source) if source.folder else None
    task = read(path if path is not None else find(str(source.id)))
    if task.foreign and not (source.trust_remote_code and foreign_code.is_confirmed()):
        names = ", ".join(dict.fromkeys(item.name for item in task.foreign))
        raise SetupError(
            f"the task file {task.path} runs Python code that is not lm_eval's own ({names}); where you trust it, set "
            f"dataset.source.trust_remote_code: true and confirm it with {foreign_code.FLAG} on the command line"
        )
    return task


def _file_name(source: Source) -> str:
    named = source.files.get("task", ())
    return named if isinstance(named, str) else "".join(named[:1])


def read(path: Path) -> TaskFile:
    """Read a task's file and those that it includes. Raises SetupError for one that is missing or no such file."""
    functions: list[Function] = []
    settings = _merged(path.resolve(), functions, ())
    return TaskFile(path=path.resolve(), settings=settings, functions=tuple(functions))


def _merged(path: Path, functions: list[Function], seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise SetupError(f"the task file {path} includes itself")

    class _Loader(yaml.SafeLoader):
        """Notes functions, and imports none."""

    def _function(loader: yaml.SafeLoader, node: Any) -> Function:
        functions.append(Function(str(loader.construct_scalar(node)), path))
        return functions[-1]

    _Loader.add_constructor("!function", _function)
    try:
        with path.open(encoding="utf-8") as stream:
            loader = _Loader(stream)
            content = loader.get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())[:200]
        raise SetupError(f"the task file {path} can't be read: {text}") from error
    if not isinstance(content, dict):
        raise SetupError(f"the task file {path} holds {type(content).__name__}, not the keys of a task")
    merged: dict[str, Any] = {}
    included = content.pop("include", [])
    for name in included if isinstance(included, list) else [included]:
        merged |= _merged((path.parent / str(name)).resolve(), functions, (*seen, path))
    merged.pop("task_list", None)
    return {**merged, **content}


@functools.lru_cache(maxsize=4)
def build(path: Path) -> Any:
    """Return lm_eval's task object of a file, with its data loaded.

    Templates of files outside of lm_eval's package are run in jinja's sandbox. Raises SetupError for data that can't be
    had, and for settings that lm_eval refuses.
    """
    import datasets
    import lm_eval.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    task = read(path)
    if not task.is_own:
        plain = lm_eval.utils.env
        sandbox = ImmutableSandboxedEnvironment(
            loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
        )
        sandbox.filters.update(plain.filters)
        lm_eval.utils.env = sandbox
    try:
        manager = TaskManager(include_defaults=False)
        # With functions, lm_eval itself must find them.
        spec = str(path) if task.functions else _with_absolute_files(task)
        (built,) = manager.load(spec)["tasks"].values()
    except Exception as error:  # of any kind: of datasets, of lm_eval, of a template
        text = " ".join((str(error) or type(error).__name__).split())[:300]
        raise SetupError(f"lm_eval can't build the task {task.name!r}: {type(error).__name__}: {text}") from error
    return built


def _with_absolute_files(task: TaskFile) -> dict[str, Any]:
    """Return a task's settings; files that lie beside its own file are found from anywhere."""
    settings, beside = dict(task.settings), task.path.parent

    def _absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _absolute(item) for key, item in value.items()}
        if isinstance(value, list):
            return [_absolute(item) for item in value]
        there = beside / str(value)
        return str(there) if isinstance(value, str) and not task.is_own and there.exists() else value

    options = dict(settings.get("dataset_kwargs") or {})
    for key in ("data_files", "data_dir"):
        if key in options:
            options[key] = _absolute(options[key])
    if options:
        settings["dataset_kwargs"] = options
    # Keys of lm_eval's index, not of a task.
    return {key: value for key, value in settings.items() if key not in ("tag", "group", "task_list")}


def documents(task: Any, split: str) -> Any:
    """Return the documents of one of the source's splits, as lm_eval processes them. Raises SetupError without it."""
    if split not in task.dataset:
        raise SetupError(f"the task {task.config.task!r} has no split {split!r}.{did_you_mean(split, task.dataset)}")
    found, process = task.dataset[split], task.config.process_docs
    return found if process is None else process(found)
