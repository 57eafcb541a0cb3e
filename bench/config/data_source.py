"""Types of a data set's sources: the Hub, files, built-in sets, and what goes with each of them."""

import csv
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench.config.fields import Distinct, Inside, InvalidKey, Name, PositiveInt, Strict, Text

# A column in a template of `source.compose`.
COMPOSED = re.compile(r"\{([^{}]+)\}")
FILE_KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "squad", "conll")


class Source(Strict):
    """Where rows come from."""

    kind: Literal["hub", "jsonl", "json", "csv", "tsv", "parquet", "squad", "conll", "saved", "builtin", "lm_eval"]
    """Where the data are and their format: the Hub; files; a folder of `datasets.save_to_disk` (`saved`); a built-in
    set; a task of lm-evaluation-harness. `json`: a list of objects, or one below `data`; `squad`: the official JSON of
    SQuAD v1.1 or v2.0; `conll`: a word and its tag on each line, a blank line after each sentence. CSV follows RFC
    4180; TSV has no quoting, as in GLUE's files, unless `quoting: true`. Example: csv
    """
    id: Text | None = None
    """Name on the Hub, of a built-in set, or of a task of lm-evaluation-harness. Example: stanfordnlp/sst2"""
    config: str | None = None
    """Configuration of a data set on the Hub. Example: emotion"""
    revision: str | None = None
    """Branch, tag or commit on the Hub; a commit keeps the data the same for ever. Example: main"""
    folder: Text | None = None
    """Folder of the files. A relative one belongs to the project: what the folder `datasets` of the card lies in.
    Example: data/sst2
    """
    files: dict[Name, Inside | Annotated[tuple[Inside, ...], Field(min_length=1), Distinct]] = {}
    """Source split -> file, pattern or list of these below `folder`. gzip, bzip2 and xz are read as well. For
    `lm_eval`, `{task: FILE}` is the task's own YAML file. Example: {train: train-*.parquet, test: test.parquet}
    """
    quoting: bool | None = None
    """Allows quoted cells in a TSV file, as in CSV. Example: true"""
    delimiter: str | None = None
    """Delimiter of CSV or TSV, where it is not a comma or a tab. Example: ';'"""
    encoding: Text | None = None
    """Text encoding of CSV or TSV, where it is not UTF-8. Example: cp1252"""
    compose: dict[Name, Text] = {}
    """New columns of text: name -> template of other columns. Example: {whole: "{title}: {content}"}"""
    seed: int = 0
    """Seed of a built-in set. Example: 1"""
    sizes: dict[str, PositiveInt] = {}
    """Rows of a built-in set's splits. Example: {train: 500}"""
    trust_remote_code: bool = False
    """Lets the task's YAML file name Python functions (`lm_eval` only); runs only with `--trust-remote-code`.
    Example: true
    """

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        remote, local = self.kind in ("hub", "builtin", "lm_eval"), self.kind in FILE_KINDS
        if remote and self.id is None:
            raise InvalidKey("kind", f"a source of kind {self.kind!r} needs `id`")
        if not remote and self.folder is None:
            raise InvalidKey("kind", f"a source of kind {self.kind!r} needs `folder`")
        if local and not self.files:
            raise InvalidKey("kind", f"a source of kind {self.kind!r} needs `files`, as `split: file name`")
        # A key that would have no effect is refused, so that nobody relies on it.
        own_file = self.kind == "lm_eval"
        foreign = {"id": not remote, "config": self.kind != "hub", "trust_remote_code": not own_file}
        foreign |= {"folder": remote and not own_file, "files": not local and not own_file}
        foreign |= {"seed": self.kind != "builtin", "sizes": self.kind != "builtin", "quoting": self.kind != "tsv"}
        foreign |= dict.fromkeys(("delimiter", "encoding"), self.kind not in ("csv", "tsv"))
        for key, wrong in foreign.items():
            if wrong and (getattr(self, key) or (key == "quoting" and self.quoting is not None)):
                raise InvalidKey(key, f"a source of kind {self.kind!r} has no `{key}`")
        return self

    @model_validator(mode="after")
    def _readable(self) -> "Source":
        if self.delimiter is not None:
            try:
                csv.reader([], delimiter=self.delimiter)
            except (TypeError, ValueError) as error:
                given = f"{self.delimiter!r} is not a delimiter"
                raise InvalidKey("delimiter", f'{given}; write one character, as ";", "|" or "\\t"') from error
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError as error:
                given = f"there is no text encoding {self.encoding!r}"
                raise InvalidKey("encoding", f"{given}; write one of Python's, as cp1252, latin-1 or utf-16") from error
        for name, template in self.compose.items():
            if not COMPOSED.search(template):
                raise InvalidKey(f"compose.{name}", 'names no column; write a template, as "{title}: {content}"')
        return self

    @property
    def is_quoted(self) -> bool:
        """Return whether cells of a CSV or TSV file may be in quotes, and then hold separators and line breaks."""
        return self.kind == "csv" or self.quoting is True


class OtherSource(Strict):
    """Another source of the same data set, for splits that the first one lacks."""

    source: Source
    """Where its rows come from. Example: {kind: hub, id: openai/gsm8k, config: main}"""
    rename: dict[Text, Text] = {}
    """Its column -> the card's name for it. Example: {question: query}"""

    @model_validator(mode="after")
    def _known_place(self) -> "OtherSource":
        if self.source.kind not in ("hub", "builtin"):
            raise InvalidKey("source.kind", "another source is on the Hub or built in; files go into `source.files`")
        return self
