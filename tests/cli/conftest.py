"""A study small enough to build in a test, and an audit that returns what a test wants."""

import json

import pytest

from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.statistics import Interval


def make_finding(effect=0.2, **changes):
    values = {
        "prompt": "kite",
        "latents": (3, 7),
        "label": "eagle",
        "kind": "polysemy",
        "kind_probability": 0.8,
        "reliance": Interval(effect * 0.8, effect * 0.7, effect * 0.9),
        "causal_effect": Interval(effect, effect - 0.02, effect + 0.02),
        "share": 0.4,
        "alignment": 0.01,
        "clarity": 0.7,
        "confidence": 0.9,
    }
    return Finding(**{**values, **changes})


@pytest.fixture
def finding():
    """Makes a finding of the given causal effect (raw cosine); keyword arguments replace its values."""
    return make_finding


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A scenes file of 48 pictures of four objects, one in four held out."""
    from clipattr_data.scene import Scene

    file = tmp_path_factory.mktemp("scenes") / "scenes.jsonl"
    things = ("kite", "eagle", "bat", "camel")
    lines = [
        {
            "id": f"{number:06d}",
            "label": things[number % 4],
            "split": "holdout" if number % 16 < 4 else "study",
            "scene": json.loads(Scene(main=things[number % 4], seed=number).to_json()),
        }
        for number in range(48)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def model_dir(tiny_model, tmp_path_factory):
    """The tiny model as a folder in open_clip's own format, so that a name loads it."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    config = {
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: tensor.contiguous() for name, tensor in tiny_model.clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def study_dir(model_dir, scenes, tmp_path_factory):
    """A study of those scenes by the tiny model, built by the command line itself."""
    from clipattr.cli.main import main

    folder = tmp_path_factory.mktemp("studies") / "tiny.study"
    words = folder.parent / "words.txt"
    words.write_text("kite\neagle\nbat\ncamel\nsky\n")
    model = f"local-dir:{model_dir}"
    options = [
        "--vocabulary",
        str(words),
        "--evaluator",
        model,
        "--latents",
        "128",
        "--k",
        "8",
        "--examples",
        "4",
        "--steps",
        "20",
    ]
    assert main(["study", model, f"scenes:{scenes}", "--out", str(folder), *options, "--quiet"]) == 0
    return folder


@pytest.fixture
def audited(monkeypatch, finding):
    """Replaces the audit; set `.findings` to what it shall return, read `.calls` for what it was asked."""
    import clipattr.discovery.audit.run

    class Audited:
        findings = [finding()]
        about = {"prompts_audited": 5}
        verdicts = [PromptVerdict("kite", "found", findings=1)]
        calls = []

        def __call__(self, study, prompts=None, **options):
            self.calls.append((study, prompts))
            self.options = options
            return Findings(self.findings, study, self.about, self.verdicts)

    fake = Audited()
    fake.calls = []
    monkeypatch.setattr(clipattr.discovery.audit.run, "audit", fake, raising=False)
    return fake
