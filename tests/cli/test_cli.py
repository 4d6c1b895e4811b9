"""The command line does what its help says, and fails with a sentence and the right status."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from clipattr.cli.main import main
from clipattr.cli.parser import parser
from clipattr.cli.serve import _absolute
from clipattr.cli.verbs import RUN as VERBS
from clipattr.dictionaries import list_saes
from clipattr.discovery.findings import Findings, PromptVerdict
from clipattr.errors import DataError


def test_help_fits_a_screen_and_loads_nothing_heavy():
    code = (
        "import sys; from clipattr.cli.main import main; main(['--help']); "
        "heavy = {'torch', 'pandas', 'numpy', 'matplotlib', 'open_clip', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 80
    assert all(f"    {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_that_its_parser_takes(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    example = text.split("example:\n")[1].split("\n\n")[0].replace("\\\n", " ").split()
    assert example[:2] == ["clipattr", verb]
    assert parser().parse_args(example[1:]).verb == verb
    assert "exit: 0 success, 1 above --fail-above, 2 bad input" in text


@pytest.mark.parametrize(
    "line",
    [
        "",
        "audi",
        "study only-a-model",
        "study m i --out o --holdout 1.5",
        "study m i --out o --k 0",
        "audit s --fail-above -3",
        "audit s --fail-above nan",
        "models --kind none",
        "train acts --out o --latents 8 --k 2 --steps 3 --epochs 1",
        "convert file --out o --set k:4",
        "--completion fish",
    ],
)
def test_wrong_arguments_give_one_error_line_and_status_2(line, capsys):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and "error:" in err and "--help" in err and len(err.splitlines()) <= 3


def test_regions_of_text_without_verification_are_refused(capsys):
    assert main(["audit", "nowhere.study", "--ocr"]) == 2
    assert "--ocr goes with --pixels" in capsys.readouterr().err


def test_an_error_is_one_sentence_without_a_traceback(capsys, tmp_path):
    assert main(["audit", str(tmp_path / "nowhere")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("clipattr: error: ") and "nowhere" in err and "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        main(["audit", str(tmp_path / "nowhere"), "--debug"])


def test_a_fault_of_ours_and_an_interruption_have_their_own_status(audited, study_dir, monkeypatch, capsys):
    import clipattr.discovery.audit.run

    def fail(*_, **__):
        raise RuntimeError("odd")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(clipattr.discovery.audit.run, "audit", fail)
    assert main(["audit", str(study_dir)]) == 70
    monkeypatch.setattr(clipattr.discovery.audit.run, "audit", interrupt)
    assert main(["audit", str(study_dir)]) == 130
    err = capsys.readouterr().err
    assert "RuntimeError: odd" in err and "interrupted" in err and "Traceback" not in err


def test_a_signal_to_terminate_ends_a_verb_like_an_interruption(audited, study_dir, monkeypatch, capsys):
    import clipattr.discovery.audit.run

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        clipattr.discovery.audit.run, "audit", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert main(["audit", str(study_dir)]) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_moved_model_is_named_and_quiet_is_passed_on(audited, study_dir, model_dir, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(model_dir, moved)
    here = f"local-dir:{moved}"
    assert main(["audit", str(study_dir), "--model", here, "--evaluator", here, "--quiet"]) == 0
    assert audited.calls[0][0].model.reference == here and audited.options["progress"] is False
    assert main(["audit", str(study_dir), "--model", "picture-world-a"]) == 2
    assert "picture-world-a" in capsys.readouterr().err


def test_a_study_is_built_from_names_and_opens_again(study_dir, capsys, model_dir, scenes):
    from clipattr import open_study

    study = open_study(study_dir)
    assert len(study.images) == 48 and study.vocabulary.words == ["kite", "eagle", "bat", "camel", "sky"]
    again = [
        "study",
        f"local-dir:{model_dir}",
        f"scenes:{scenes}",
        "--out",
        str(study_dir),
        "--latents",
        "64",
    ]
    assert main(again) == 2
    assert "study" in capsys.readouterr().err


def test_a_broken_picture_is_counted_and_named(model_dir, scenes, tmp_path, capsys):
    from clipattr_data.scene import Scene

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Scene(main="kite", seed=number).picture().save(folder / f"{number:02d}.png")
    (folder / "99.jpg").write_text("no picture at all")
    words = tmp_path / "words.txt"
    words.write_text("kite\n\nkite\nsky\n")
    model = f"local-dir:{model_dir}"
    line = ["study", model, str(folder), "--out", str(tmp_path / "s"), "--vocabulary", str(words)]
    options = ["--evaluator", model, "--latents", "64", "--k", "4", "--steps", "20", "--json", "-", "--quiet"]
    assert main([*line, *options]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert [name for name, _ in summary["skipped"]] == ["99.jpg"] and summary["counts"]["pictures"] == 12
    assert "1 picture could not be read and was left out" in err and "99.jpg" in err and "repeated" in err


def test_a_missing_folder_of_pictures_leaves_nothing_behind(model_dir, tmp_path, capsys):
    line = ["study", f"local-dir:{model_dir}", str(tmp_path / "no"), "--out", str(tmp_path / "s")]
    assert main(line) == 2
    assert "no" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_findings_are_printed_strongest_first_within_100_columns(audited, study_dir, finding, capsys):
    long = "a very long prompt that goes on and on about nothing in particular at all, really"
    audited.findings = [
        finding(0.1),
        finding(0.3, prompt=long, label=long),
        finding(0.2, prompt="凧" * 40, label=None),
    ]
    assert main(["audit", str(study_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 unexpected reliances in 5 prompts")
    assert [
        word in lines[2] for word in ("prompt", "rests on", "kind", "reliance", "alignment", "causal effect")
    ]
    assert [line.split("95")[0] and line.count("+") for line in lines[4:7]] == [3, 3, 3]
    assert ["+30.0" in lines[4], "+20.0" in lines[5], "+10.0" in lines[6]] == [True] * 3
    width = max(sum(2 if ord(c) > 0x2E80 else 1 for c in line) for line in lines)
    assert 60 < width <= 100


def test_terminal_marks_in_labels_are_shown_and_not_obeyed(audited, study_dir, finding, capsys):
    audited.findings = [finding(prompt="\x1b[3\u202e", label="a\nb")]
    main(["audit", str(study_dir)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "⟨U+001B⟩[3⟨" in out and "a b" in out


def test_json_on_stdout_is_json_alone_and_reads_back(audited, study_dir, finding, capsys, tmp_path):
    audited.findings = [finding(0.1), finding(0.3)]
    assert main(["audit", str(study_dir), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "f.json"
    file.write_text(out)
    assert list(Findings.from_json(file)) == audited.findings
    assert "+30.0" in err


def test_audit_writes_all_three_files(audited, study_dir, tmp_path):
    names = {option: tmp_path / f"audit.{option}" for option in ("json", "csv", "html")}
    assert (
        main(["audit", str(study_dir), *[part for o, p in names.items() for part in (f"--{o}", str(p))]]) == 0
    )
    assert sorted(tmp_path.iterdir()) == sorted(names.values())
    assert len(Findings.from_json(names["json"])) == 1
    assert names["csv"].read_text().startswith("prompt,rests on,kind")
    assert "kite" in names["html"].read_text()


def test_a_check_is_printed_line_by_line_and_needs_pictures_or_a_study(model_dir, scenes, tmp_path, capsys):
    model = f"local-dir:{model_dir}"
    words = tmp_path / "words.txt"
    words.write_text("kite\neagle\nbat\ncamel\n")
    line = [
        "check",
        model,
        f"scenes:{scenes}",
        "--vocabulary",
        str(words),
        "--json",
        str(tmp_path / "c.json"),
    ]
    status = main(line)  # an untrained model reads no better than chance
    out = capsys.readouterr().out
    assert "ok   pictures: 48, 48 with a label" in out and "look evaluator: the audited model itself" in out
    told = json.loads((tmp_path / "c.json").read_text())
    assert status == (0 if told["usable"] else 2) and len(told["lines"]) == len(out.splitlines())
    assert main(["check", model]) == 2 == main([*line, "--laws"])
    assert "MODEL IMAGES" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(audited, study_dir, tmp_path, capsys):
    for option, place in (("--html", tmp_path / "no" / "a.html"), ("--json", tmp_path), ("--csv", "-")):
        assert main(["audit", str(study_dir), option, str(place)]) == 2
        assert option in capsys.readouterr().err
    assert audited.calls == []
    same = str(tmp_path / "a.out")
    assert main(["audit", str(study_dir), "--json", same, "--html", same]) == 2 and audited.calls == []
    assert "--json and --html name one file" in capsys.readouterr().err
    assert main(["faithfulness", str(study_dir), "--plot", str(tmp_path / "bars.docx")]) == 2
    assert "bars.docx: no picture format; the ending must be one of" in capsys.readouterr().err


def test_findings_of_another_study_are_refused_by_all_who_show_them(study_dir, finding, tmp_path, capsys):
    file = tmp_path / "findings.json"
    file.write_text(Findings([finding()], None, {"dictionary": "0123456789abcdef"}).to_json())
    for line in (["serve"], ["site", "--out", str(tmp_path / "site")]):
        assert main([line[0], str(study_dir), "--findings", str(file), *line[1:]]) == 2
        assert "names latents of the dictionary 0123456789abcdef" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["audit STUDY --pixels", "verify STUDY FINDINGS", "site STUDY --out DIR"])
def test_quiet_verbs_show_no_progress(line, audited, study_dir, finding, tmp_path, capsys):
    file = tmp_path / "findings.json"
    file.write_text(Findings([finding()], None, audited.about, audited.verdicts).to_json())
    places = {"STUDY": str(study_dir), "FINDINGS": str(file), "DIR": str(tmp_path / "site")}
    words = [places.get(word, word) for word in line.split()]
    assert main([*words, "--quiet"]) == 0
    assert not any(line.startswith(("verify:", "site:")) for line in capsys.readouterr().err.splitlines())
    assert main(words) == 0
    told = capsys.readouterr().err
    assert (
        any(line.startswith(("verify: 1 of", "site: ")) for line in told.splitlines()) and "it/s" not in told
    )


def test_prompts_come_from_a_file_and_from_the_line(audited, study_dir, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("bat\n\n# a remark\nkite\nbat\n")
    assert main(["audit", str(study_dir), "--prompt", "kite", "--prompts", str(file)]) == 0
    assert audited.calls[0][1] == ["kite", "bat"]
    assert "repeated" in capsys.readouterr().err
    main(["audit", str(study_dir)])
    assert audited.calls[1][1] is None
    assert main(["audit", str(study_dir), "--prompts", str(tmp_path / "no.txt")]) == 2


def test_status_1_only_when_a_finding_is_above_the_limit(audited, study_dir, finding, capsys):
    audited.findings = [finding(0.2), finding(0.05, prompt="bat")]
    assert main(["audit", str(study_dir), "--fail-above", "20"]) == 0
    assert main(["audit", str(study_dir), "--fail-above", "19.9"]) == 1
    out = capsys.readouterr().out
    assert (
        "failed: 1 finding above 19.9 points is new" in out
        and "kite rests on eagle: +20.0 (18.0 to 22.0) points" in out
    )


def test_a_prompt_that_cannot_be_judged_is_never_green(audited, study_dir, finding, tmp_path, capsys):
    audited.findings = [finding(0.02)]
    audited.verdicts = [
        PromptVerdict("kite", "found", findings=1),
        PromptVerdict("eagel", "cannot be judged", "it has no pictures"),
    ]
    files = {name: tmp_path / f"a.{name}" for name in ("json", "csv", "html")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    line = ["audit", str(study_dir), "--prompt", "kite", "--prompt", "eagel", *options]
    assert main(line) == 0
    assert main([*line, "--fail-above", "5"]) == 3
    out, err = capsys.readouterr()
    assert "1 of 2 prompts cannot be judged, so it has not passed" in out
    assert "eagel: it has no pictures. Did you mean eagle?" in out and "Correct the spelling" in out
    assert "'eagel' is neither a label nor a word of this study; did you mean eagle?" in err
    told = json.loads(files["json"].read_text())
    assert told["gate"]["outcome"] == "cannot be judged"
    assert told["gate"]["cannot_be_judged"][0]["did_you_mean"] == ["eagle"]
    assert list(Findings.from_json(files["json"]).verdicts[1].did_you_mean) == ["eagle"]
    row = files["csv"].read_text().splitlines()[2]
    assert row.startswith("eagel,") and "cannot be judged" in row and "did you mean eagle?" in row
    page = files["html"].read_text()
    assert "1 of 2 prompts cannot be judged" in page and "1 prompt: cannot be judged" in page
    assert main([*line, "--fail-above", "1"]) == 1  # a finding over the limit comes first


def test_a_baseline_excuses_what_it_lists(audited, study_dir, finding, tmp_path, capsys):
    known, heard, page = (tmp_path / name for name in ("known.json", "audit.json", "decision.md"))
    assert main(["audit", str(study_dir), "--json", str(heard)]) == 0
    assert main(["baseline", "accept", str(heard), "--out", str(known), "--note", "read"]) == 0
    assert "accepted 1 finding in" in capsys.readouterr().out
    line = ["audit", str(study_dir), "--fail-above", "5", "--baseline", str(known)]
    assert main(line) == 0
    audited.findings = [finding(0.2), finding(0.2, prompt="bat")]
    assert main([*line, "--markdown", str(page), "--previous", str(study_dir)]) == 1
    assert page.read_text().startswith("### clipattr: ❌ failed\n\n1 reliance above 5 points is new")
    assert "1 is accepted" in capsys.readouterr().out
    assert main(line[:2] + line[4:]) == 2
    assert "--fail-above" in capsys.readouterr().err
    known.write_text("{}")
    assert main(line) == 2


def test_models_are_listed_as_they_are_named_when_loading(capsys):
    assert main(["models", "--kind", "paper"]) == 0
    listed = capsys.readouterr().out.splitlines()[2:]
    assert len(listed) == 8 and all(":" in line.split()[0] for line in listed)
    assert main(["models", "--kind", "paper", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8


def test_a_score_is_explained_as_the_library_does(study_dir, capsys, tmp_path):
    from clipattr import Contrast, attribute, open_study

    plot = tmp_path / "bars.png"
    line = ["attribute", str(study_dir), "7", "kite", "--against", "bat", "--top", "3", "--plot", str(plot)]
    assert main([*line, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    study = open_study(study_dir)
    top = attribute(study, study.images[7], Contrast("kite", "bat")).top(3)
    assert [row["latent"] for row in said["latents"]] == top["latent"].tolist()
    assert [row["attribution"] for row in said["latents"]] == pytest.approx(top["attribution"].tolist())
    assert said["picture"] == "000007" and "000007" in err and plot.read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_named_by_id_number_or_file(study_dir, tmp_path, capsys):
    from clipattr_data.scene import Scene

    file = tmp_path / "kite.png"
    Scene(main="bat", seed=6).picture().save(file)  # the same scene as picture 6
    tables = []
    for picture in ("000006", "6", str(file)):
        assert main(["attribute", str(study_dir), picture, "bat"]) == 0
        tables.append(capsys.readouterr().out.splitlines()[2:])
    assert tables[0] == tables[1] == tables[2]
    for wrong in ("48", "nothing.png"):
        assert main(["attribute", str(study_dir), wrong, "bat"]) == 2
        assert wrong in capsys.readouterr().err


def test_demo_prints_the_table_and_names_report_and_notebook(
    audited, study_dir, tmp_path, monkeypatch, capsys
):
    import clipattr.studies.study

    real = clipattr.studies.study.open_study
    opened = []

    def open_bundled(name):
        opened.append(name)
        return real(study_dir)

    monkeypatch.setattr(clipattr.studies.study, "open_study", open_bundled)
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert opened == ["picture-world"]
    assert (
        "1. The score of “kite” falls by 20.0 points when “eagle”" in out
        and "clipattr check MODEL IMAGES" in out
    )
    assert (
        "kite" in out and "clipattr-demo.html" in out and "make lab" in out and "00_quickstart.ipynb" in out
    )
    assert (tmp_path / "clipattr-demo.html").stat().st_size > 5_000
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("line", ["models", "--completion bash", "--help"])
def test_a_closed_pipe_is_no_error(line):
    code = f"import sys; from clipattr.cli.main import main; sys.exit(main({line.split()}))"
    # The shell's own status is that of head, so the program's is printed.
    command = f'{{ {sys.executable} -c "{code}"; echo $? >&2; }} | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == "0\n", done.stderr


def test_errors_of_bad_values_are_data_errors():
    from clipattr.cli.terminal import check_target

    with pytest.raises(DataError, match="only --json"):
        check_target("-", "html")


def test_faithfulness_prints_writes_and_draws_what_the_function_measures(study_dir, tmp_path, capsys):
    from clipattr import open_study
    from clipattr.attribution import VocabularyContrast
    from clipattr.attribution.faithfulness import faithfulness

    plot, prompts = tmp_path / "methods.png", tmp_path / "prompts.txt"
    prompts.write_text("kite\nbat\n")
    line = ["faithfulness", str(study_dir), "--prompts", str(prompts), "--pictures", "4", "--plot", str(plot)]
    assert main([*line, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    study = open_study(study_dir)
    images = study.holdout[:: len(study.holdout) // 4][:4]
    found = faithfulness(study, images, VocabularyContrast(["kite", "bat"], study.vocabulary))
    means = {(row["measure"], row["method"]): row["mean"] for row in record["rows"]}
    assert record["prompts"] == ["kite", "bat"] and record["unit"] == "cosine"
    assert means["deletion", "patching"] == pytest.approx(
        found.summary("patching", "deletion").value, abs=1e-6
    )
    assert "rank correlation" in err and plot.read_bytes().startswith(b"\x89PNG")
    assert main(["faithfulness", str(study_dir), "--prompts", str(tmp_path / "none.txt")]) == 2


def test_an_audit_keeps_its_work_beside_its_first_file_until_that_is_written(
    study_dir, audited, tmp_path, monkeypatch
):
    import clipattr.discovery.audit.run as run

    asked = []

    def working(study, prompts, *, checkpoint, **options):
        asked.append(checkpoint)
        if checkpoint is not None:
            checkpoint.mkdir()
        return audited(study, prompts)

    monkeypatch.setattr(run, "audit", working)
    out = tmp_path / "a.json"
    assert main(["audit", str(study_dir), "--csv", str(tmp_path / "a.csv"), "--json", str(out)]) == 0
    assert asked == [tmp_path / "a.json.checkpoint"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json"]
    for nowhere in ("-", "/dev/null"):
        assert main(["audit", str(study_dir), "--json", nowhere]) == 0
    assert asked[1:] == [None, None]


def test_a_full_disk_and_lack_of_memory_are_told_with_what_to_do(
    study_dir, audited, tmp_path, monkeypatch, capsys
):
    import clipattr.cli.terminal as terminal
    import clipattr.discovery.audit.run as run

    def working(study, prompts, *, checkpoint, **options):
        checkpoint.mkdir(exist_ok=True)
        return audited(study, prompts)

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "audit", working)
    order = ["audit", str(study_dir), "--json", str(tmp_path / "a.json"), "--junit", str(tmp_path / "a.xml")]
    with monkeypatch.context() as patch:
        patch.setattr(terminal, "write_text", full)
        assert main(order) == 2
    said = capsys.readouterr().err
    assert (
        f"error: {tmp_path / 'a.json'} could not be written" in said and "The disk is full: make room" in said
    )
    assert (tmp_path / "a.json.checkpoint").is_dir(), "it stays until every file is written"
    assert main(order) == 0 and not (tmp_path / "a.json.checkpoint").exists()

    def poor(*_, **__):
        raise MemoryError

    monkeypatch.setattr(run, "audit", poor)
    capsys.readouterr()
    assert main(order) == 2
    assert "error: out of memory (MemoryError)" in capsys.readouterr().err


def test_places_given_to_the_server_do_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "tuned.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert _absolute("ViT-B-32:tuned.pt@openai") == f"ViT-B-32:{tmp_path / 'tuned.pt'}@openai"
    assert _absolute("tuned.pt") == str(tmp_path / "tuned.pt")
    assert _absolute("ViT-B-32:openai") == "ViT-B-32:openai"


def test_published_dictionaries_are_listed_also_where_the_site_is_unknown(capsys):
    assert main(["saes", "clipscope"]) == 0
    assert "–" in capsys.readouterr().out
    assert list_saes("clipscope")["site"].tolist() == [None]


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(audited, study_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        main(["audit", str(study_dir), "--prompt", "kite", "--json=~/out.json", "--csv=~/out.csv", "--quiet"])
        == 0
    )
    assert (tmp_path / "out.json").is_file() and (tmp_path / "out.csv").is_file()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_closed_streams_are_no_fault(stream):
    line = f"import sys; sys.{stream} = None; from clipattr.cli.main import main; sys.exit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("serve picture-world --port 99999", "a number from 1 to 65535"),
        ("encode a b --out c --batch x", "must be a whole number; got 'x'"),
        ("study a b --out c --holdout half", "must be a number; got 'half'"),
    ],
)
def test_values_that_are_no_numbers_are_told_what_they_should_be(line, told, capsys):
    assert main(line.split()) == 2
    assert told in capsys.readouterr().err
