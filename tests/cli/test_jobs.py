"""The verbs that make a study's pieces, what shells complete, and what holds for every verb."""

import json
import shutil
import subprocess

import pytest
import torch

from clipattr import ActivationStore, load_dictionary, load_model, train_sae
from clipattr.cli.main import main
from clipattr.cli.parser import parser
from clipattr.cli.verbs import RUN as VERBS


@pytest.fixture(scope="module")
def store_dir(model_dir, scenes, tmp_path_factory):
    """Activations of the tiny model at two sites, made by the command line."""
    folder = tmp_path_factory.mktemp("stores") / "tiny.acts"
    sites = ["--site", "image.-1.cls", "--site", "image.-2.cls"]
    model = f"local-dir:{model_dir}"
    assert main(["encode", model, f"scenes:{scenes}", "--out", str(folder), *sites, "--quiet"]) == 0
    return folder


def test_encode_keeps_what_the_model_computes(store_dir, model_dir, scenes):
    from clipattr import Images, activations

    store = ActivationStore.open(store_dir, "image.-2.cls")
    model, images = load_model(f"local-dir:{model_dir}"), Images.open(f"scenes:{scenes}")
    pixels = torch.stack([model.prepare(image.load()) for image in images])
    direct = activations(model, pixels, "image.-2.cls").float()
    assert len(store) == 48
    # Halves on disk: eleven bits of precision.
    torch.testing.assert_close(store.read(0, 48), direct, rtol=2e-3, atol=2e-3)


def test_encode_goes_on_where_it_is_complete_and_says_what_it_has(store_dir, model_dir, scenes, capsys):
    line = ["encode", f"local-dir:{model_dir}", f"scenes:{scenes}", "--out", str(store_dir)]
    sites = ["--site", "image.-1.cls", "--site", "image.-2.cls"]
    assert main([*line, *sites, "--quiet", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert (said["activations"], said["width"], said["skipped"]) == (48, 64, [])
    assert "48 activations of 64 numbers" in err and "clipattr train" in err
    assert main([*line, "--site", "image.-1.patches", "--quiet"]) == 2  # another site: another store
    assert "Traceback" not in capsys.readouterr().err


def test_train_makes_the_dictionary_that_the_function_makes(store_dir, tmp_path, capsys):
    out = tmp_path / "tiny.sae"
    line = ["train", str(store_dir), "--out", str(out), "--latents", "96", "--k", "4", "--steps", "15"]
    assert main([*line, "--site", "image.-1.cls", "--seed", "3", "--quiet", "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)
    store = ActivationStore.open(store_dir, "image.-1.cls")
    direct = train_sae(store, n_latents=96, k=4, steps=15, seed=3, progress=False)
    made = load_dictionary(out)
    assert made.hash == direct.hash == said["hash"]
    assert (said["site"], said["latents"], said["k"]) == ("image.-1.cls", 96, 4)


def test_convert_reads_a_foreign_file_and_names_what_it_lacks(tmp_path, capsys):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = {"encoder.weight": torch.randn(32, 8), "encoder.bias": torch.zeros(32), "pre_bias": torch.zeros(8),
               "decoder.weight": torch.randn(8, 32)}  # fmt: skip
    file, out = tmp_path / "sae.safetensors", tmp_path / "out"
    save_file({"odd": torch.zeros(3)}, file)
    assert main(["convert", str(file), "--out", str(out)]) == 2
    assert "odd" in capsys.readouterr().err and not out.exists()
    save_file(weights, file)
    status = main(["convert", str(file), "--out", str(out), "--set", "q=3"])
    assert status == 2 and "does not know q" in capsys.readouterr().err


def test_convert_of_our_own_folder_is_the_same_dictionary(store_dir, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    store = ActivationStore.open(store_dir, "image.-1.cls")
    made = train_sae(store, n_latents=64, k=4, steps=3, progress=False)
    made.save(one)
    assert main(["convert", str(one), "--out", str(two), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["hash"] == made.hash == load_dictionary(two).hash


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_json_and_debug(verb):
    (verbs,) = (
        action for action in parser()._actions if hasattr(action, "choices") and action.dest == "verb"
    )
    options = {option for action in verbs.choices[verb]._actions for option in action.option_strings}
    assert {"--json", "--debug", "--help"} <= options


def test_the_parser_and_the_verbs_are_the_same_list():
    (verbs,) = (
        action for action in parser()._actions if hasattr(action, "choices") and action.dest == "verb"
    )
    assert set(verbs.choices) == set(VERBS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_names_every_verb_and_is_a_script_the_shell_reads(shell, capsys, tmp_path):
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS) and "fail-above" in script
    if shutil.which(shell) and shell != "tcsh":
        file = tmp_path / "completion"
        file.write_text(script)
        done = subprocess.run([shell, "-n", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [(["clipattr", "aud"], "audit"), (["clipattr", "audit", "x", "--fail"], "--fail-above")],
)
def test_bash_completes_verbs_and_options(typed, offered, capsys, tmp_path):
    main(["--completion", "bash"])
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    words = " ".join(f"'{word}'" for word in typed)
    function = next(
        line.split()[0].rstrip("()")
        for line in script.read_text().splitlines()
        if line.startswith("_shtab_clipattr()")
    )
    asked = (f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; "
             f'{function}; printf "%s\\n" "${{COMPREPLY[@]}}"')  # fmt: skip
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
    assert offered in done.stdout.split(), done.stderr


def test_saes_lists_published_dictionaries_and_checks_one_on_images(store_dir, study_dir, tmp_path, capsys):
    assert main(["saes", "cls-11"]) == 0
    out = capsys.readouterr().out
    assert "prisma:clip-b32-datacomp/cls-11" in out and "image.11.cls" in out and "84 %" in out
    assert main(["saes", "cls-11", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["l0"] == 64
    assert main(["saes", "--images", str(tmp_path)]) == 2
    assert "--images goes with a dictionary" in capsys.readouterr().err
