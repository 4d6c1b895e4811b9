"""Word lists: every bad file has its own message, and senses of one spelling stay apart."""

import json

import pytest
import torch

from clipattr.errors import DataError
from clipattr.meaning.vocabulary import Vocabulary, empty_prompt
from clipattr.storage.files import digest


def test_blank_and_repeated_lines_are_dropped_and_noted(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# birds\nkite\n\n  \nowl\nKite\n red   fox \n", encoding="utf-8")
    vocabulary = Vocabulary.open(path)
    assert vocabulary.words == ["kite", "owl", "red fox"]
    assert vocabulary.notes == ["2 blank lines were left out.", "1 repeated word was left out: 'Kite'."]


def test_a_wrong_encoding_is_named_with_its_line_and_can_be_given(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("Hund\nBär\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"not utf-8 text \(line 2: b'.xe4.*cp1252"):
        Vocabulary.open(path)
    assert Vocabulary.open(path, encoding="cp1252").words == ["Hund", "Bär"]
    path.write_bytes("Bär\n".encode("utf-16"))
    assert Vocabulary.open(path).words == ["Bär"]
    path.write_bytes(b"\xef\xbb\xbfowl\n")
    assert Vocabulary.open(str(path)).words == ["owl"]
    path.write_bytes(b"owl\0\0")
    with pytest.raises(DataError, match="zero bytes"):
        Vocabulary.open(path)


def test_nothing_to_name_with_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    for source in (tmp_path / "empty.txt", [], ["", " "]):
        with pytest.raises(DataError, match="The vocabulary is empty"):
            Vocabulary.open(source)
    with pytest.raises(DataError, match="No vocabulary file"):
        Vocabulary.open(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="got int 3"):
        Vocabulary.open(["owl", 3])


def test_a_table_keeps_ids_glosses_and_groups(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text(
        'id,word,gloss,group\n1,kite,"a bird, of prey",animal\n2,kite,a toy on a string,toy\n3,owl,,\n'
    )
    vocabulary = Vocabulary.open(path)
    assert vocabulary.words == ["kite", "kite", "owl"]
    assert vocabulary.display == ["kite (a bird, of prey)", "kite (a toy on a string)", "owl"]
    assert vocabulary.prompts[2] == "owl" and vocabulary.groups == ["animal", "toy", None]
    assert vocabulary.index("kite (a toy on a string)") == 1 and vocabulary.index("kite") == 0
    with pytest.raises(DataError, match="similar words: kite"):
        vocabulary.index("kit")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="column 'word'.*a, b"):
        Vocabulary.open(path)


def test_saving_and_opening_again_keeps_the_hash(tmp_path):
    vocabulary = Vocabulary(
        ["kite", "kite", "<b>ü</b>"], ids=["1", "2", None], qualifiers=["bird", "toy", None]
    )
    vocabulary.save(tmp_path / "v.csv")
    assert Vocabulary.open(tmp_path / "v.csv").hash == vocabulary.hash
    assert Vocabulary(["kite"]).hash != vocabulary.hash


def test_imagenet_names_keep_their_senses_apart():
    vocabulary = Vocabulary.open("imagenet21k")
    assert len(vocabulary) > 21_000
    queens = [i for i, word in enumerate(vocabulary.words) if word == "queen"]
    assert len(queens) > 4
    assert (
        len({vocabulary.ids[i] for i in queens})
        == len({vocabulary.prompts[i] for i in queens})
        == len(queens)
    )


def test_the_bundled_list_has_groups_and_no_repeated_words():
    vocabulary = Vocabulary.open()
    assert len(vocabulary) > 600 and not vocabulary.notes
    assert {"animals", "places", "looks", "marks and text"} <= set(vocabulary.groups)


def test_half_a_million_lines_open_quickly(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"word {number}" for number in range(500_000)))
    assert len(Vocabulary.open(path)) == 500_000


def test_embeddings_do_not_depend_on_the_order_of_templates(tiny_model, tmp_path):
    templates = ("a photo of a {}", "{}", "a drawing of a {}")
    one = Vocabulary(["owl", "kite"]).embed(tiny_model, templates)
    two = Vocabulary(["owl", "kite"]).embed(tiny_model, templates[::-1])
    assert torch.equal(one, two)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(2))
    with pytest.raises(DataError, match="must contain"):
        Vocabulary(["owl"]).embed(tiny_model, ["a photo"])


def test_embeddings_are_computed_once_per_words_templates_and_weights(tiny_model, tmp_path):
    calls = []

    class Counting:
        weights_hash = tiny_model.weights_hash

        def encode_text(self, prompts, templates=("{}",)):
            calls.append(len(prompts))
            return tiny_model.encode_text(prompts, templates=templates)

    vocabulary = Vocabulary(["owl", "kite", "fox"])
    first = vocabulary.embed(Counting(), cache=tmp_path)
    assert torch.equal(vocabulary.embed(Counting()), first) and calls == [3]
    assert torch.equal(
        Vocabulary(["owl", "kite", "fox"]).embed(Counting(), cache=tmp_path), first
    ) and calls == [3]
    Vocabulary(["owl", "kite"]).embed(Counting(), cache=tmp_path)
    assert calls == [3, 2] and not list(tmp_path.glob("*.part"))


def test_the_empty_prompt_is_one_unit_vector(tiny_model):
    assert empty_prompt(tiny_model).shape == (48,)


@pytest.mark.parametrize("name", ["dermatology", "chest_xray", "pathology", "inspection"])
def test_a_field_has_signs_and_artefacts_with_a_role_each(name, tmp_path):
    words = Vocabulary.open(name)
    assert not words.notes and len(words) > 100 and None not in words.roles + words.groups
    artefacts = [
        role for role, group in zip(words.roles, words.groups, strict=True) if group.startswith("artefact")
    ]
    assert len(artefacts) > 30 and {"mark", "text", "object"} >= set(artefacts) >= {"mark", "text"}
    words.save(tmp_path / "words.csv")
    again = Vocabulary.open(tmp_path / "words.csv")
    assert again.hash == words.hash and again.roles == words.roles


def test_the_published_biases_of_lesion_classifiers_have_words():
    words = Vocabulary.open("dermatology")
    assert [
        words.groups[words.words.index(word)].split(":")[0] for word in ("hair", "ink mark", "ruler")
    ] == ["artefact"] * 3


def test_roles_change_the_hash_and_their_absence_does_not():
    plain, declared = Vocabulary(["ruler", "mole"]), Vocabulary(["ruler", "mole"], roles=["Object", None])
    assert plain.hash != declared.hash and declared.roles == ["object", None]
    rows = [["ruler", None, None, None, "ruler"], ["mole", None, None, None, "mole"]]
    assert plain.hash == digest(json.dumps(rows))  # as before there were roles


def test_an_unknown_role_is_left_out_and_noted():
    words = Vocabulary.open({"word": ["ruler", "mole"], "role": ["gadget", "look"]})
    assert words.roles == [None, "look"] and "1 other was left out: 'gadget'" in " ".join(words.notes)


def test_a_list_of_which_no_word_is_left_says_what_was_left_out():
    with pytest.raises(
        DataError, match=r"vocabulary is empty.*1 entry longer than 300 characters was left out"
    ):
        Vocabulary(["very " * 100 + "long"])
