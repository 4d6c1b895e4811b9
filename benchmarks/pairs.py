"""Cost of the table of pairs relative to encoding, and the error of its sum.

One picture and many prompts through a CLIP shaped as ViT-B/32 with random weights, and dictionaries of 8,192
latents, k = 32 on both sides. The ratio of `stream_pairs` to bare encoding of the same picture and prompts counts;
the two are timed in turns in one process.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import open_clip
import torch
from results import write_results

import clipattr as ca
from clipattr.dictionaries import TopK

LATENTS, K = 8192, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64 prompts, one turn")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    count, turns = (64, 1) if arguments.quick else (arguments.prompts, arguments.turns)
    torch.manual_seed(0)
    model = ca.load_model(open_clip.create_model("ViT-B-32"))
    sae, text_sae = (dictionary(model, site) for site in ("image.-1.cls", "text.-1.eot"))
    pixels = torch.randn(1, 3, *model.image_size)
    prompts = [f"a photo of object number {number}" for number in range(count)]
    gaps, scores = [], []

    def bare() -> None:
        with torch.no_grad():
            scores.append(model.encode_image(pixels) @ model.encode_text(prompts).T)

    def whole() -> None:
        found = ca.stream_pairs(model, pixels, prompts, dictionary=sae, text_dictionary=text_sae)
        for number, one in enumerate(found):
            gaps.append(abs(float(one.values.sum()) - float(scores[0][0, number])))

    times: dict[str, list[float]] = {"encode": [], "pairs": []}
    model.encode_text(prompts[:8])
    for _ in range(turns):
        for name, run in (("encode", bare), ("pairs", whole)):
            begun = time.process_time()
            run()
            times[name].append(time.process_time() - begun)
    ratios = np.array(times["pairs"]) / np.array(times["encode"])
    figures = {
        "prompts": count,
        "pairs_over_encode": float(np.median(ratios)),
        "largest_gap": max(gaps),
        "seconds_encode": float(np.median(times["encode"])),
    }
    for name, value in figures.items():
        print(f"{name:20} {value:.3g}")
    write_results("pairs", figures, [], quick=arguments.quick)


def dictionary(model: ca.Model, site: str) -> TopK:
    """Random unit directions with the activations' own scale, so that codes are as dense as in use."""
    width = ca.Site(site).width(model)
    decoder = torch.nn.functional.normalize(torch.randn(LATENTS, width), dim=1)
    return TopK(k=K, decoder=decoder, encoder=decoder, site=site, model_hash=model.weights_hash)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
