"""Word lists in every form give the same words, or an error that says what the file is."""

import json

import numpy as np
import pandas as pd
import pytest

from clipattr.errors import DataError
from clipattr.meaning.vocabulary import Vocabulary

WORDS = ["cat", "dog", "red car"]


@pytest.mark.parametrize(
    "source",
    [
        WORDS,
        np.array(WORDS),
        pd.Series(WORDS),
        pd.Index(WORDS),
        pd.DataFrame({"word": WORDS, "gloss": ["a", "b", "c"]}),
        pd.DataFrame({" Label ": WORDS}),
        {"word": WORDS, "gloss": ["a", "b", "c"]},
        {2: "red car", 0: "cat", 1: "dog"},
        {"cat": 0, "red car": 2, "dog": 1},
        {"cat": "pets", "dog": "pets", "red car": None},
        {"pets": WORDS[:2], "things": WORDS[2:]},
        [{"word": word, "id": n} for n, word in enumerate(WORDS)],
        set(WORDS),
    ],
    ids=lambda source: type(source).__name__,
)
def test_words_in_memory(source):
    assert Vocabulary.open(source).words == WORDS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.csv", "word;gloss;group\ncat;a, b;pets\ndog;c;pets\nred car;;things\n"),
        ("w.csv", "sep=;\nword;gloss\ncat;a\ndog;b\nred car;c\n"),
        ("w.csv", " Word ,Gloss\ncat,a\ndog,b\nred car,c\n"),
        ("w.tsv", "id\tword\n1\tcat\n2\tdog\n3\tred car\n"),
        ("w.csv", "cat\ndog\nred car\n"),
        ("w.txt", "\ufeffcat\r\ndog\r\nred car\r\n"),
        ("w.txt", "word\ncat\ndog\nred car\n"),
        ("w.txt", "word\tgloss\ncat\ta\ndog\tb\nred car\tc\n"),
        ("w.txt", json.dumps(WORDS)),
        ("w.json", json.dumps({"0": "cat", "1": "dog", "2": "red car"})),
        ("w.json", json.dumps({"pets": ["cat", "dog"], "things": ["red car"]})),
        ("w.jsonl", "\n".join(json.dumps({"word": word}) for word in WORDS)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_words_in_files(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert Vocabulary.open(tmp_path / name).words == WORDS


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("w.csv", "a;b\n1;2\n", "column 'word'"),
        ("w.txt", "cat\ta small animal\ndog\tbarks\n", "2 columns"),
        ("w.txt", "cat;pets\ndog;pets\n", "2 columns"),
        ("w.txt", "cat, dog, bird, car\n", "all words in one line"),
        ("w.json", "{", "is not valid JSON"),
        ("w.json", "3", "not a list or object"),
        ("w.xlsx", "PK", "Save it as CSV"),
        ("w.csv", "word,gloss\ncat,a,b\n", "3 cells"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told):
        Vocabulary.open(tmp_path / name)


@pytest.mark.parametrize(
    "source", [pd.DataFrame({"a": [1], "b": [2]}), {"a": ["x"], "b": "y"}, 3, b"cat", ["cat", 3]]
)
def test_what_is_no_list_of_words_is_refused(source):
    with pytest.raises(DataError):
        Vocabulary.open(source)


def test_missing_words_are_blank_and_columns_that_are_not_read_are_noted():
    vocabulary = Vocabulary.open(pd.DataFrame({"word": ["cat", None, "dog"], "score": [1, 2, 3]}))
    assert (
        vocabulary.words == ["cat", "dog"]
        and "score" in vocabulary.notes[0]
        and "1 blank" in vocabulary.notes[1]
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("synsets.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ["tench", "goldfish"]),
        ("synsets.tsv.txt", "n01440764\ttench\nn01443537\tgoldfish\n", ["tench", "goldfish"]),
        (
            "index.json",
            '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}',
            ["tench", "goldfish"],
        ),
        ("labels.txt", "{0: 'tench, Tinca tinca',\n 1: 'goldfish'}", ["tench, Tinca tinca", "goldfish"]),
        ("list.txt", "['tench', 'goldfish']", ["tench", "goldfish"]),
        ("numbers.txt", "0: tench\n1: goldfish\n", ["tench", "goldfish"]),
        ("bullets.txt", "- tench\n- goldfish\n", ["tench", "goldfish"]),
        ("quotes.txt", '"tench",\n"goldfish",\n', ["tench", "goldfish"]),
        ("joined.txt", "great_white_shark\ngoldfish\n", ["great white shark", "goldfish"]),
        ("templates.json", '{"classes": ["tench"], "templates": ["a photo of a {}"]}', ["tench"]),
        ("indented.txt", "tench\n  # fish\ngoldfish\n", ["tench", "goldfish"]),
        ("3.txt", "3 musketeers\n101 dalmatians\n", ["3 musketeers", "101 dalmatians"]),
    ],
)
def test_usual_lists_of_classes_give_their_words(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    found = Vocabulary.open(tmp_path / name)
    assert found.words == words
    if "synsets" in name or "index" in name:
        assert found.ids == ["n01440764", "n01443537"]


def test_a_saved_vocabulary_keeps_its_underscores(tmp_path):
    made = Vocabulary(["hot_dog", "cat"])
    made.save(tmp_path / "v.csv")
    assert Vocabulary.open(tmp_path / "v.csv").hash == made.hash
    assert "with underscores" in Vocabulary.open(["hot_dog"]).notes[0]


@pytest.mark.parametrize(
    ("name", "text"), [("v.yaml", "- cat"), ("v.txt", "[cat, dog"), ("v.txt", "cat; dog; hen")]
)
def test_files_of_another_shape_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="one word per line"):
        Vocabulary.open(tmp_path / name)
