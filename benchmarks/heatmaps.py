"""Do heatmaps show where an object is? Firing maps against the true masks of the picture world, with controls.

    python benchmarks/heatmaps.py [--quick]

For held-back pictures in which a latent fires that is named like the picture's main object: does the strongest patch
touch the object (pointing game), and how much of the map's positive mass lies inside it? Maps: `firing` (gradient ×
activation of the latent), `occlusion` (its code with patches painted over), and `attribution_B`, where the evidence for
the object's name lies at the patch tokens of block B (neurons, against the mean patch). Controls: a uniform map, a
random one, one that always points to the centre, and the map of a latent with another label on the same picture.
"""

import argparse
from typing import Any

import numpy as np
import torch
from results import write_results
from torch import Tensor

import clipattr
from clipattr.attribution import (
    VocabularyContrast,
    attribution_map,
    firing_map,
    mean_codes,
    occlusion_map,
    read_site,
)
from clipattr.attribution.maps import mass_inside, points_inside
from clipattr.dictionaries import neurons
from clipattr.sites import Site
from clipattr.statistics import bootstrap

OCCLUDED = 128  # pictures whose patches are painted over one by one, which is slow


def cases(study: Any, n: int) -> tuple[list[Any], list[int], np.ndarray]:
    """Records, latents and masks (n, 64, 64): an aligned latent active on a held-back picture of its own label."""
    table = study.latents[study.latents["aligned"]]
    named = dict(zip(table["latent"], table["label"], strict=True))
    records, latents, masks = [], [], []
    for start in range(0, len(study.holdout), 128):
        part = study.holdout[start : start + 128]
        pixels = torch.stack([study.model.prepare(record.load()) for record in part])
        codes = study.dictionary.encode(clipattr.activations(study.model, pixels, study.site)).to_fixed()
        for record, active, amounts in zip(part, codes.indices.tolist(), codes.values.tolist(), strict=True):
            fitting = [
                (amount, latent)
                for latent, amount in zip(active, amounts, strict=True)
                if amount > 0 and named.get(latent) == record.label
            ]
            main = [one.mask for one in record.scene.truth().objects if one.role == "main"]
            if fitting and main and main[0].any():
                records.append(record)
                latents.append(max(fitting)[1])
                masks.append(main[0])
        if len(records) >= n:
            break
    return records[:n], latents[:n], np.stack(masks[:n])


def evidence(study: Any, records: list[Any], block: int) -> Tensor:
    """Where at the patches after a block the evidence for each picture's own label lies: (n, rows, columns)."""
    model, site = study.model, Site(f"image.{block}.patches")
    every = neurons(model.image_width, k=model.image_width, site=str(site), model_hash=model.weights_hash)
    pixels = torch.stack([model.prepare(record.load()) for record in records])
    acts = read_site(model, pixels[:64], site)[0]
    usual = mean_codes(every.encode(acts.flatten(0, 1)), keep=model.image_width)
    labels = list(dict.fromkeys(record.label for record in records))
    words = study.vocabulary.embed(model)
    maps = torch.empty(len(records), *model.grid)
    for label in labels:
        places = [place for place, record in enumerate(records) if record.label == label]
        target = VocabularyContrast([label], words)
        found = clipattr.attribute(
            model, pixels[places], target, dictionary=every, site=site, method="patching", baseline=usual
        )
        maps[places] = attribution_map(found)
    return maps


def maps_of(study: Any, n: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Maps (n, rows, columns) by kind, fewer for occlusion, and the masks they are compared with, in the same order."""
    records, latents, masks = cases(study, n)
    labels = study.latents["label"]
    others = []
    for number, latent in enumerate(latents):
        shifted = latents[number + 1 :] + latents[: number + 1]
        others.append(next(other for other in shifted if labels[other] != labels[latent]))
    pairs = [
        firing_map(study, study.model.prepare(record.load())[None], [latent, other])[0]
        for record, latent, other in zip(records, latents, others, strict=True)
    ]
    own, other = torch.stack(pairs).unbind(1)
    occluded = [
        occlusion_map(study, study.model.prepare(record.load())[None], [latent])[0, 0]
        for record, latent in zip(records[:OCCLUDED], latents[:OCCLUDED], strict=True)
    ]
    blocks = (0, study.model.image_blocks // 2, study.model.image_blocks - 2)
    shown = {f"attribution_{block}": evidence(study, records, block) for block in blocks}
    rows, columns = study.model.grid
    down = torch.arange(rows)[:, None] - (rows - 1) / 2
    across = torch.arange(columns)[None] - (columns - 1) / 2
    centre = torch.exp(-(down**2 + across**2) / rows)
    noise = torch.rand(own.shape, generator=torch.Generator().manual_seed(0))
    maps = {
        "firing": own,
        "occlusion": torch.stack(occluded),
        **shown,
        "other_latent": other,
        "centre": centre.expand_as(own),
        "random": noise,
    }
    return {**maps, "uniform": torch.ones_like(own)}, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures")
    parser.add_argument("--study", default="picture-world")
    arguments = parser.parse_args()
    study = clipattr.open_study(arguments.study)
    maps, masks = maps_of(study, 48 if arguments.quick else 512)
    figures: dict[str, float] = {}
    rows = []
    print(f"{'map':14s} {'pointing game':>24s} {'mass inside':>24s}   ({len(masks)} pictures)")
    for name, heat in maps.items():
        line = f"{name:14s}"
        for measure, values in (
            ("pointing", points_inside(heat, masks[: len(heat)])),
            ("mass_inside", mass_inside(heat, masks[: len(heat)])),
        ):
            if name == "uniform" and measure == "pointing":
                continue  # it has no strongest patch
            score = bootstrap(values[:, None])
            figures[f"{measure}_{name}"] = score.value
            rows.append({"map": name, "measure": measure, **vars(score)})
            line += f" {score.value:8.3f} [{score.low:.3f}, {score.high:.3f}]"
        print(line)
    figures["area_of_objects"] = float(masks.mean())
    write_results("heatmaps", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
