"""YAML: which words are numbers, what is refused, and that each value knows its line."""

import os
from pathlib import Path

import pytest

from bench.config import yaml_loader
from bench.config.layers import Layers
from bench.config.yaml_loader import Document
from bench.errors import RecipeError


def problem(text):
    """The message with which a text is refused."""
    with pytest.raises(RecipeError) as caught:
        Document(text, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-1E+5", -1e5),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        ("+1.", 1.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("-7", -7),
        ("0", 0),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_numbers_and_words(text, value):
    found = Document(f"x: {text}", "r").data["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["1e-3x", "e3", "1e", "-x", ".", "010", "0x10", "0o7", "1:30", "1:30.5", "yes", "no", "on", "Off", "2001-01-01",
     "=", "'1'", '"true"', "1e-3 4"],
)  # fmt: skip
def test_everything_else_is_text(text):
    assert Document(f"x: {text}", "r").data["x"] == text.strip("'\"")


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", ".NaN", "1e999", "-1e999"])
def test_numbers_are_finite(text):
    assert problem(f"a:\n  b: {text}") == f"r.yaml:2: a.b: expected a finite number, got {text}"


def test_a_number_too_long_to_read_has_a_place():
    assert problem("a:\n- " + "9" * 5000).startswith("r.yaml:2: a.0: ")


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x", "a: *x", "a: &x {b: 1}", "&x a: 1", "a: [&x 1]"])
def test_anchors_and_aliases_are_refused(text):
    assert "r.yaml:1: anchors and aliases are not supported" in problem(text)


def test_and_and_star_inside_a_text_are_allowed():
    assert Document("a: R&D\nb: 2*3", "r").data == {"a": "R&D", "b": "2*3"}


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object:os.system x",
        "!!python/object/apply:os.system ['touch owned']",
        "!!python/object/new:subprocess.Popen [['touch', 'owned']]",
        "!!python/name:os.system",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!str 1",
        "!mine x",
        "! x",
    ],
)
def test_tags_are_refused_and_run_nothing(tagged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert problem(f"a: 1\nb: {tagged}").startswith("r.yaml:2: tags like '")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opening", ["[", "{a: ", "? "])
@pytest.mark.parametrize("depth", [40, 200_000])
def test_deep_nesting_is_a_sentence_and_not_the_end_of_the_process(opening, depth):
    assert problem("x: 1\ny: " + opening * depth).startswith("r.yaml:2: ")


def test_nesting_as_deep_as_a_recipe_needs_is_fine():
    value = Document("x: " + "[" * 20 + "1" + "]" * 20, "r").data["x"]
    for _ in range(20):
        (value,) = value
    assert value == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "r.yaml:4: b.c: duplicate key (first on line 3)"),
        ('a: 1\n"a": 2', "r.yaml:2: a: duplicate key (first on line 1)"),
        ("a: [{b: 1, b: 2}]", "r.yaml:1: a.0.b: duplicate key (first on line 1)"),
        ("1: x", "r.yaml:1: the key '1' is not text; quote it"),
        ("a:\n  true: x", "r.yaml:2: a: the key 'true' is not text; quote it"),
        ("null: x", "r.yaml:1: the key 'null' is not text; quote it"),
        ("? [a]\n: x", "r.yaml:1: a list or a mapping can't be a key"),
        ("? {a: b}\n: x", "r.yaml:1: a list or a mapping can't be a key"),
        ("a: [1,\n", "r.yaml:2: not valid YAML"),
        ("a: 1\n\tb: 2", "r.yaml:2: not valid YAML"),
        ("a: b: c", "r.yaml:1: not valid YAML"),
        ("a: 1\n---\nb: 1", "r.yaml:2: not valid YAML: expected a single document in the stream"),
        ("a: '", "not valid YAML"),
        ("a: \x07", "r.yaml: not valid YAML"),
    ],
)
def test_refused_with_the_line(text, message):
    assert message in problem(text)


def test_unprintable_keys_do_not_reach_the_terminal():
    message = problem('"\\e[31m": {a: 1, a: 2}')
    assert "\x1b" not in message
    assert "\\x1b[31m" in message


def test_every_value_knows_its_line():
    document = Document("a: 1\nb:\n  c:\n  - x\n  - {d: 2}\n\n'k.l': 3\nключ: 4\n", "r.yaml")
    assert document.data == {"a": 1, "b": {"c": ("x", {"d": 2})}, "k.l": 3, "ключ": 4}
    assert document.where(("a",)) == "r.yaml:1: a"
    assert document.where(("b", "c", 1, "d")) == "r.yaml:5: b.c.1.d"
    assert document.where(("b", "missing")) == "r.yaml:2: b.missing"
    assert document.where(("k.l",)) == "r.yaml:7: k.l"
    assert document.where(("ключ",)) == "r.yaml:8: ключ"
    assert document.where(()) == "r.yaml:1"


def test_an_override_has_its_key_and_no_line():
    document = yaml_loader.override(("a", "b"), "[1, {c: 2}]", "command line")
    assert document.data == (1, {"c": 2})
    assert document.where(()) == "command line: a.b"
    assert document.where((1, "c")) == "command line: a.b.1.c"
    assert yaml_loader.override(("a",), "  ", "command line").data is None
    with pytest.raises(RecipeError, match=r"^command line: a\.b: not valid YAML"):
        yaml_loader.override(("a", "b"), "[", "command line")
    with pytest.raises(RecipeError, match=r"^command line: a\.c: duplicate key$"):
        yaml_loader.override(("a",), "{c: 1, c: 2}", "command line")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "expected a mapping of keys to values, got a list"),
        ("word", "got 'word'"),
        ("3", "got 3"),
        (b"\xff\xfe\x00", "can't be read as UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "can't be read as UTF-8 text"),
        (b"a: \x00", "not valid YAML"),
    ],
)
def test_files_that_hold_no_mapping(write, content, message):
    path = write("r.yaml", content)
    with pytest.raises(RecipeError) as caught:
        yaml_loader.read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n# only a comment\n", "---\n", "{}", "~"])
def test_an_empty_file_is_an_empty_mapping(write, content):
    assert yaml_loader.read(write("r.yaml", content)).data == {}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa: 1\n", b"a: 1\r\n", b"a: 1"])
def test_byte_order_mark_and_windows_line_ends(write, content):
    assert yaml_loader.read(write("r.yaml", content)).data == {"a": 1}


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(RecipeError, match="this is a folder, not a file"):
        yaml_loader.read(tmp_path)
    with pytest.raises(RecipeError, match="there is no such file"):
        yaml_loader.read(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match=r"can't be read|no such file"):
        yaml_loader.read(tmp_path / "a\0b")


def test_what_would_be_read_without_an_end_is_refused(tmp_path):
    fifo, endless, long = (tmp_path / name for name in ("fifo.yaml", "endless.yaml", "long.yaml"))
    os.mkfifo(fifo)
    endless.symlink_to("/dev/zero")
    with long.open("wb") as stream:
        stream.truncate(yaml_loader.LIMIT_BYTES + 1)
    for path, why in ((fifo, "a FIFO, not"), (endless, "a device, not"), (long, "are more than the 16,777,216")):
        with pytest.raises(RecipeError, match=rf"{path.name}: can't be read: .*{why}"):
            yaml_loader.read(path)


def test_a_pipe_of_the_shell_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"a: 1\r\n")
    os.close(writing)
    try:
        assert yaml_loader.read(Path(f"/dev/fd/{reading}")).data == {"a": 1}
    finally:
        os.close(reading)


def test_layers_merge_mappings_and_remember_places():
    layers = Layers()
    layers.lay({"a": {"x": 1, "y": 2}, "b": (1, 2)}, ("card",), Document("a:\n  x: 1\n  y: 2\nb: [1, 2]", "card.yaml"))
    recipe = Document("card:\n  a: {x: 3}\n  b: [9]", "r.yaml")
    layers.lay(recipe.data["card"], ("card",), recipe, ("card",))
    layers.lay(4, ("card", "a", "z"), yaml_loader.override(("card", "a", "z"), "4", "command line"))
    assert layers.data == {"card": {"a": {"x": 3, "y": 2, "z": 4}, "b": (9,)}}
    assert layers.place(("card", "a", "x")) == "r.yaml:2: card.a.x"
    assert layers.place(("card", "a", "y")) == "card.yaml:3: a.y"
    assert layers.place(("card", "a", "z")) == "command line: card.a.z"
    assert layers.place(("card", "b", 0)) == "r.yaml:3: card.b.0"
    assert layers.place(("card", "missing")) == "card.yaml:1: missing"
