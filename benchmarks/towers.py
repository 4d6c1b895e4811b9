"""Every architecture of open_clip: load, encode, read, continue, ablate, build a study, audit; `--quick` for a sample.

Each is built at full width and reduced depth with random weights, so that nothing is downloaded and only the structure
counts. Text towers of transformers are built from small local configurations of the same family. Checked are: that
continuing from a site equals encoding, that exact ablation in closed form equals replacing the activation and encoding
again, that attribution inside the tower is finite, and that a study can be built and audited.

    python benchmarks/towers.py --quick
    python benchmarks/towers.py [--only PATTERN] [--keep FILE]
"""

import argparse
import contextlib
import copy
import dataclasses
import fnmatch
import inspect
import json
import re
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import torch
from results import write_results
from torch import Tensor

import clipattr as ca
from clipattr.attribution import ClosedFormTail, ProbeLogit, attribute
from clipattr.dictionaries import random_sae
from clipattr.models.places import default_site

WORDS = ["kite", "bat", "camel", "lemon", "banjo", "tent", "canoe", "apron", "stork", "vase", "fern", "drum"]
VOCABULARY = 64  # tokens of the toy tokenizer
PICTURES = 16
SIDE = 4  # patches across, where a tower lets its size be chosen
SAMPLE = ("ViT-B-32", "coca_ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP", "EVA02-B-16", "MobileCLIP-B",
          "MobileCLIP2-S3", "ViT-L-14-CLIPA", "ViTamin-S", "vit_medium_patch16_gap_256", "PE-Core-T-16-384",
          "roberta-ViT-B-32", "swin_base_patch4_window7_224")  # fmt: skip
# Small configurations of the families of text towers that open_clip takes from transformers.
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
         "vocab_size": VOCABULARY, "max_position_embeddings": 600, "pad_token_id": 1}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
M2M = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
       "decoder_ffn_dim": 32, "decoder_attention_heads": 2, "vocab_size": VOCABULARY,
       "max_position_embeddings": 600}  # fmt: skip
FAMILIES = {"xlm-roberta": SMALL, "roberta": SMALL, "mt5": T5, "nllb": M2M}


class ToyTokenizer:
    """Words to a few ids by their hash, the last id as end mark: enough for random weights."""

    def __call__(self, texts: list[str], context_length: int) -> Tensor:
        tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in enumerate(texts):
            ids = [2 + zlib.crc32(word.encode()) % (VOCABULARY - 4) for word in text.split()][
                : context_length - 1
            ]
            tokens[row, : len(ids) + 1] = torch.tensor([*ids, VOCABULARY - 1])
        return tokens


def family_of(name: str) -> str:
    return next(family for family in FAMILIES if family in name)


def reduced(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An architecture's configuration at reduced depth, and what timm is given beyond it."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" not in vision:
        vision["layers"] = 2 if isinstance(vision["layers"], int) else [1, 1, 1, 1]
        if isinstance(vision["layers"], int):
            vision["image_size"] = SIDE * vision["patch_size"]
    elif (side := small_side(vision["timm_model_name"])) is not None:
        vision["image_size"] = side
    if text.get("hf_model_name"):
        family = family_of(text["hf_model_name"])
        place = folder / family
        place.mkdir(exist_ok=True)
        kind = "m2m_100" if family == "nllb" else family
        (place / "config.json").write_text(json.dumps({"model_type": kind, **FAMILIES[family]}))
        text.update(hf_model_name=str(place), hf_model_pretrained=False)
    else:
        text.update(layers=1, vocab_size=VOCABULARY)
        if "eos_id" in text:
            text["eos_id"] = VOCABULARY - 1
    if "multimodal_cfg" in config:
        config["multimodal_cfg"].update(layers=1, vocab_size=VOCABULARY)
    return config, vision


def small_side(name: str) -> int | None:
    """Pixels across of a few patches, for timm's vision transformers; None for towers that need their own size."""
    if not name.startswith(("vit_", "eva")) or "relpos" in name:
        return None
    found = re.search(r"patch(\d+)", name)
    return SIDE * int(found[1] if found else 16)


@contextlib.contextmanager
def shallow():
    """timm builds its towers at the least depth that each kind can be told."""
    import timm

    plain = timm.create_model

    def create(name: str, **options: Any) -> Any:
        if (side := small_side(name)) is not None:
            options["img_size"] = side
        stages = 5 if name.endswith(("mci3", "mci4")) else 4
        for depth in ({"depth": 2}, {"depths": (1,) * stages}, {"layers": (1,) * stages}, {}):
            with contextlib.suppress(TypeError, ValueError, AssertionError, IndexError):
                return plain(name, **options, **depth)
        return plain(name, **options)

    with mock.patch("timm.create_model", create):
        yield


def build(name: str, folder: Path) -> ca.Model:
    """The architecture with random weights, loaded as users load a module."""
    config, _ = reduced(name, folder)
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind: Any = open_clip.model.CLIP
    if custom:
        kind = open_clip.coca_model.CoCa if "multimodal_cfg" in config else open_clip.model.CustomTextCLIP
    known = inspect.signature(kind).parameters
    torch.manual_seed(0)
    with shallow(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = kind(**{key: value for key, value in config.items() if key in known})
    with torch.no_grad():  # fresh towers hardly mix their tokens; trained ones do
        for key, weight in clip.visual.named_parameters():
            if key.endswith(("gamma", "gamma_1", "gamma_2")):
                weight.fill_(1)
            elif "bias" in key and weight.ndim == 1:
                weight.normal_(std=0.1)
    return ca.load_model(clip, tokenizer=ToyTokenizer())


def check(name: str, folder: Path) -> dict[str, Any]:
    """What works with one architecture, and the largest errors."""
    started = time.perf_counter()
    model = build(name, folder)
    rng = np.random.default_rng(0)
    side = max(model.image_size)
    pictures = [noise(rng, side) for _ in range(PICTURES)]
    pixels = torch.stack([model.prepare(picture) for picture in pictures[:4]])
    with torch.no_grad():
        whole = model.encode_image(pixels)
    places = ["image.embedding"]
    with contextlib.suppress(ca.SiteError):
        tower = model.image_tower
        places += ["image.-1.all", "image.-2.all"]
        places += (
            ["image.-1.cls"] if tower.has_class_token and "cls" in tower.pooled else ["image.-1.patches"]
        )
    continued = ablated = 0.0
    attributed, closed = [], []
    for place in places:
        site = ca.Site(place)
        with torch.no_grad(), ca.capture(model, site) as held:
            again = model.encode_image(pixels)
        acts = ca.activations(model, pixels, site)
        context = (
            ca.activations(model, pixels, f"image.{site.block}.all") if site.needs_context(model) else None
        )
        with torch.no_grad():
            rest = ca.continue_from(model, site, acts, context)
        continued = max(continued, largest(held[site] - acts), largest(again - whole), largest(rest - whole))
        dictionary = random_sae(acts.flatten(0, -2), 64, 4, site=place, model_hash=model.weights_hash)
        target = ProbeLogit(torch.nn.functional.normalize(torch.randn(3, model.embed_dim), dim=1))
        found = attribute(model, pixels[:2], target, dictionary=dictionary, site=place)
        if torch.isfinite(found.values).all() and largest(found.values) > 0:
            attributed.append(place)
        if site.tail(model) is not None:
            closed.append(place)
            ablated = max(ablated, ablation_error(model, site, acts, pixels, dictionary, target))
    return {
        "name": name,
        "tower": type(getattr(model.visual, "trunk", model.visual)).__name__,
        "pooling": model.image_tower.pooling if len(places) > 1 else "inside the tower",
        "sites": places,
        "attributed": attributed,
        "closed_form": closed,
        "continue_error": continued,
        "ablation_error": ablated,
        "audited": audited(model, pictures, folder / name),
        "seconds": round(time.perf_counter() - started, 1),
    }


def noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """A picture of coarse coloured noise."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((-(-side // 4), -(-side // 4), 1), np.uint8))[:side, :side]


def largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def ablation_error(
    model: ca.Model, site: ca.Site, acts: Tensor, pixels: Tensor, dictionary: Any, target: ProbeLogit
) -> float:
    """Closed form against replacing the activation and encoding again, for the parts of the first picture."""
    weights, constants = target.linear(model)
    tail = ClosedFormTail(model, dictionary, weights, site=site, constants=constants)
    codes = dictionary.encode(acts.flatten(0, -2)).to_fixed()
    exact = tail.exact(acts, codes)
    decoder = torch.as_tensor(dictionary.decoder)
    before = target.values(model.encode_image(pixels[:1]), model)[0]
    worst = 0.0
    places = codes.indices.shape[1]
    for part in range(0, exact.shape[1], max(1, exact.shape[1] // 6)):
        token, place = divmod(part, places)
        moved = codes.values[token, place] * decoder[int(codes.indices[token, place])]

        def without(there: Tensor, token: int = token, moved: Tensor = moved) -> Tensor:
            changed = there.clone()
            if there.ndim == 2:
                changed[0] -= moved
            else:
                changed[0, token] -= moved
            return changed

        with torch.no_grad(), ca.replace(model, site, without):
            after = target.values(model.encode_image(pixels[:1]), model)[0]
        worst = max(worst, largest(exact[0, part] - (before - after)))
    return worst


def audited(model: ca.Model, pictures: list[np.ndarray], folder: Path) -> str:
    """The site at which a study of some pictures is built and audited."""
    site = default_site(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = ca.build_study(
            model, pictures, path=folder, vocabulary=WORDS, site=site, n_latents=32, k=4, examples=4,
            training={"steps": 20}, thumbnails=False, progress=False,
        )  # fmt: skip
        ca.audit(study, WORDS[:2], settings=plain_settings(), progress=False)
    return str(site)


def plain_settings() -> Any:
    """The audit without tests that alter pictures: with random weights they are slow and carry no information."""
    from clipattr.discovery.audit.run import Settings

    known = {field.name for field in dataclasses.fields(Settings)}
    return Settings(**{name: 0 for name in ("budget",) if name in known})


def finished(file: Path | None) -> list[dict[str, Any]]:
    """Rows that an earlier run has written."""
    if file is None or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.startswith("{")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one architecture of each kind")
    parser.add_argument("--only", default="*", help="names to run, with * and ?")
    parser.add_argument(
        "--keep", type=Path, help="file of finished rows: a run that was cut off goes on from it"
    )
    arguments = parser.parse_args()
    names = [name for name in open_clip.list_models() if fnmatch.fnmatch(name, arguments.only)]
    if arguments.quick:
        names = [name for name in names if name in SAMPLE]
    kept = {row["name"]: row for row in finished(arguments.keep) if "failed" not in row}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            if name in kept:
                rows.append(kept[name])
                continue
            try:
                row = check(name, Path(place))
            except Exception as error:  # every architecture gets a row, also after an error
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                row = {"name": name, "failed": f"{type(error).__name__} ({where}): {error}"[:300]}
            rows.append(row)
            print(json.dumps(row), flush=True)
            if arguments.keep:
                with arguments.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    good = [row for row in rows if "failed" not in row]
    figures = {
        "configs": len(rows),
        "encoded": len(good),
        "attributed": sum(len(row["attributed"]) > 1 for row in good),
        "audited": sum(bool(row["audited"]) for row in good),
        "closed_form_inside": sum(len(row["closed_form"]) > 1 for row in good),
        "largest_error": max((row["ablation_error"] for row in good), default=0.0),
        "largest_continue_error": max((row["continue_error"] for row in good), default=0.0),
    }
    quick = arguments.quick or arguments.only != "*"
    print(json.dumps(figures, indent=2), write_results("towers", figures, rows, quick=quick))


if __name__ == "__main__":
    main()
