"""Cost of attribution relative to encoding the pictures, which is needed in any case.

    python benchmarks/attribution.py [--quick] [--keep FOLDER --minutes M]

Times, on one machine in one run and interleaved, bare `encode_image` and everything from pixels to attributions:
encode, capture, sparse codes, attribution of every active latent for every prompt. ViT-B/32 and ViT-L/14 shapes with
random weights, 30,000 latents, k = 64, 1,000 prompts, CPU float32; then other numbers of prompts (1 to 10,000), of
latents, and depths. Beside it captum's layer gradient × activation, and one backward per prompt through the dictionary,
timed for a few prompts, since each further prompt costs the same again. Last, the peak memory of streaming 100,000
pictures beside 10,000, with a small model, since only their number matters. Ratios are medians over rounds, so that
even machine load cancels. Run it on a machine that does nothing else. With `--keep FOLDER` a run that was cut
off, or stopped by `--minutes`, goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from memory import peak_mb
from pieces import Pieces, add_arguments
from results import write_results
from torch.nn import functional

import clipattr
from clipattr.attribution import ClosedFormTail, ProbeLogit, Splice, stream
from clipattr.attribution.compute import read_site
from clipattr.dictionaries import TopK
from clipattr.sites import Site, continue_from

LAST, EMBEDDING = Site("image.-1.cls"), Site("image.embedding")
PATIENCE = 60.0  # seconds of rounds after which three rounds suffice


def random_model(name: str) -> Any:
    """A model of the paper's shapes with random weights: cost does not depend on what it has learnt."""
    import open_clip

    torch.manual_seed(0)
    return clipattr.load_model(open_clip.create_model(name, pretrained=None))


def random_dictionary(width: int, n_latents: int, k: int, site: str = "image.-1.cls") -> TopK:
    generator = torch.Generator().manual_seed(1)
    decoder = functional.normalize(torch.randn(n_latents, width, generator=generator), dim=1)
    return TopK(k=k, decoder=decoder, encoder=decoder.clone(), bias=torch.zeros(width), site=site)


def prompts_of(model: Any, n: int) -> torch.Tensor:
    """(embed, n) random unit columns: prompt embeddings, which are ready before the clock starts."""
    generator = torch.Generator().manual_seed(2)
    return functional.normalize(torch.randn(n, model.embed_dim, generator=generator), dim=1).T.contiguous()


def interleaved(rounds: int, tasks: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds per round of every task; tasks take turns, so that machine load affects all alike.

    Fewer rounds where they are slow, but at least three.
    """
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begun > PATIENCE:
            break
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str = "encode") -> float:
    """Median over rounds of this task's seconds by the base task's in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def added(times: dict[str, list[float]], name: str, base: str = "encode") -> float:
    """1 + this extra work as a share of the base task; for work measured on its own."""
    return 1 + statistics.median(times[name]) / statistics.median(times[base])


def encode_and_capture(model: Any, pixels: torch.Tensor, site: Site) -> torch.Tensor:
    with torch.no_grad(), clipattr.capture(model, site) as acts:
        model.encode_image(pixels)
    return acts[site]


def closed_form(
    model: Any, batch: int, n_latents: int, k: int, n: int, rounds: int, site: Site = LAST
) -> dict[str, float]:
    """Ratios at a site with a closed form: whole calls against `encode_image`, and the added work alone."""
    pixels = torch.randn(batch, 3, *model.image_size)
    dictionary = random_dictionary(site.width(model), n_latents, k, str(site))
    weights = prompts_of(model, n)
    start = time.perf_counter()
    tail = ClosedFormTail(model, dictionary, weights)
    build = time.perf_counter() - start
    held = encode_and_capture(model, pixels, site)

    def work(acts: torch.Tensor, **which: bool) -> None:
        with torch.no_grad():
            tail.effects(acts, dictionary.encode(acts), **which)

    def bare() -> None:
        with torch.no_grad():
            model.encode_image(pixels)

    tasks: dict[str, Callable[[], Any]] = {
        "encode": bare,
        "patching": lambda: work(encode_and_capture(model, pixels, site), exact=False),
        "exact": lambda: work(encode_and_capture(model, pixels, site)),
        "added_patching": lambda: work(held, exact=False),
        "added_exact": lambda: work(held),
        "added_exact_only": lambda: work(held, patching=False),
        "added_codes": lambda: dictionary.encode(held),
    }
    times = interleaved(rounds, tasks)
    return {
        "patching_over_encode": ratio(times, "patching"),
        "exact_over_encode": ratio(times, "exact"),
        "added_patching": added(times, "added_patching"),
        "added_exact": added(times, "added_exact"),
        "added_exact_only": added(times, "added_exact_only"),
        "codes_alone": added(times, "added_codes"),
        "build_seconds": build,
        "encode_seconds": statistics.median(times["encode"]),
        "rounds": float(len(times["encode"])),
    }


def earlier_block(
    model: Any, site: Site, batch: int, n_latents: int, k: int, n: int, rounds: int, exact: bool = False
) -> dict[str, float]:
    """Before the last block, from pixels on, against `encode_image`: patching, and exact ablation of every latent."""
    pixels = torch.randn(batch, 3, *model.image_size)
    dictionary = random_dictionary(model.image_width, n_latents, k, str(site))
    target = ProbeLogit(prompts_of(model, n).T)

    def bare() -> None:
        with torch.no_grad():
            model.encode_image(pixels)

    def taken_apart() -> Splice:
        acts, context = read_site(model, pixels, site)
        return Splice(model, dictionary, site, acts, target, context=context)

    tasks: dict[str, Callable[[], Any]] = {"encode": bare, "attributed": lambda: taken_apart().slopes()}
    if exact:
        tasks["ablated"] = lambda: taken_apart().ablated()
    times = interleaved(rounds, tasks)
    found = {"over_encode": ratio(times, "attributed")}
    return found | ({"exact_over_encode": ratio(times, "ablated")} if exact else {})


def peers(model: Any, batch: int, n_latents: int, k: int, rounds: int, prompts: int) -> dict[str, float]:
    """Common methods, one prompt at a time: captum on the block's output, and a backward through dense codes."""
    from captum.attr import LayerGradientXActivation

    pixels = torch.randn(batch, 3, *model.image_size)
    dictionary = random_dictionary(model.image_width, n_latents, k)
    weights = prompts_of(model, prompts)
    block = model.image_blocks_modules[-1]
    explainer = LayerGradientXActivation(lambda x, w: model.encode_image(x) @ w, block)

    def bare() -> None:
        with torch.no_grad():
            model.encode_image(pixels)

    def captum() -> None:
        for prompt in range(prompts):
            explainer.attribute(pixels.requires_grad_(), additional_forward_args=(weights[:, prompt],))

    def through_dictionary() -> None:
        acts = encode_and_capture(model, pixels, LAST)
        codes = dictionary.encode(acts)
        rest = acts - dictionary.decode(codes) + dictionary.bias
        dense = codes.to_dense().requires_grad_()
        for prompt in range(prompts):
            y = continue_from(model, LAST, dense @ dictionary.decoder + rest) @ weights[:, prompt]
            (gradient,) = torch.autograd.grad(y.sum(), dense)
            _ = gradient * dense

    times = interleaved(rounds, {"encode": bare, "captum": captum, "dictionary": through_dictionary})
    captum_each = (statistics.median(times["captum"])) / prompts / statistics.median(times["encode"])
    dictionary_each = (
        statistics.median(times["dictionary"]) / statistics.median(times["encode"]) - 1
    ) / prompts
    return {"captum_each": captum_each, "dictionary_each": dictionary_each}


class Noise:
    """Pictures that are generated on access: a collection of any size without memory."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, place: int) -> Any:
        return SimpleNamespace(id=f"{place:07d}")

    def batches(
        self, model: Any, batch: int, places: range | None = None
    ) -> Iterator[tuple[np.ndarray, list[torch.Tensor]]]:
        places = range(self.n) if places is None else places
        for start in range(places.start, places.stop, batch):
            rows = np.arange(start, min(start + batch, places.stop))
            generator = torch.Generator().manual_seed(start)
            yield rows, [torch.randn(len(rows), 3, *model.image_size, generator=generator)]


def stream_child(n: int) -> None:
    """Child process: stream attributions of n pictures to disk, print the peak memory."""
    import open_clip

    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 1, "layers": 1}
    model = clipattr.load_model(open_clip.model.CLIP(embed_dim=48, vision_cfg=vision, text_cfg=text))
    dictionary = random_dictionary(64, 4000, 16)
    target = ProbeLogit(prompts_of(model, 8).T)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = stream(model, Noise(n), target, folder + "/out", dictionary=dictionary, batch=256, shard=2048)
        seconds = time.perf_counter() - start
        assert len(found) == n
    print(json.dumps({"peak_mb": peak_mb(), "pictures_per_second": n / seconds}))


def streaming(quick: bool) -> list[dict[str, Any]]:
    """Peak memory of streams of two lengths, each in a process of its own."""
    rows = []
    for n in (4_000, 20_000) if quick else (10_000, 100_000):
        call = [sys.executable, __file__, "--stream-child", str(n)]
        found = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
        rows.append({"what": f"stream of {n:,} pictures", **found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, ViT-B/32 only")
    parser.add_argument("--batch", type=int, default=32)
    add_arguments(parser)
    parser.add_argument("--stream-child", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream_child is not None:
        stream_child(arguments.stream_child)
        return
    quick, batch = arguments.quick, arguments.batch
    pieces = Pieces(arguments.keep, arguments.minutes)
    rounds = 5 if quick else 11
    rows: list[dict[str, Any]] = []
    models: dict[str, Any] = {}

    def model_of(name: str) -> Any:
        if name not in models:
            models.clear()
            models[name] = random_model(name)
        return models[name]

    def note(
        what: str, measure: Callable[..., dict[str, float]], *given: Any, **named: Any
    ) -> dict[str, Any]:
        """One row, measured with the model that `what` begins with; {} where there was no time for it."""
        name = what.split(" ")[0].replace("/", "-")
        about = [list(map(str, given)), named, torch.get_num_threads()]
        found = pieces.piece(
            what, about, lambda: measure(model_of(name), *given, **named), optional=len(rows) >= 4
        )
        if found is None:
            return {}
        row = {"what": what, "batch": next(size for size in given if isinstance(size, int)), **found}
        rows.append(row)
        shown = (f"{k} {v:.4f}" if isinstance(v, float) else f"{v}" for k, v in row.items())
        print("  ".join(shown), flush=True)
        return row

    def last(what: str, size: int, n_latents: int, n: int, turns: int) -> dict[str, Any]:
        return note(what, closed_form, size, n_latents, 64, n, turns)

    def earlier(what: str, site: str, size: int, n: int, turns: int, exact: bool = False) -> dict[str, Any]:
        return note(what, earlier_block, Site(site), size, 30_000, 64, n, turns, exact=exact)

    small, cls2 = min(batch, 8), "image.-2.cls"
    main_row = last("ViT-B/32 last block, 1,000 prompts", batch, 30_000, 1000, rounds)
    embedding = note(
        "ViT-B/32 embedding, 1,000 prompts", closed_form, batch, 30_000, 64, 1000, rounds, EMBEDDING
    )
    block2 = earlier("ViT-B/32 block -2 CLS, 1 prompt", cls2, small, 1, rounds, exact=True)
    earlier("ViT-B/32 block -2 patches, 1 prompt", "image.-2.patches", small, 1, 3)
    other = note("ViT-B/32 peers, per prompt", peers, small, 30_000, 64, 3, 4)
    many: dict[str, float] = {}
    if not quick:
        row = earlier("ViT-B/32 block -2 CLS, 1,000 prompts", cls2, small, 1000, 3, exact=True)
        if row:
            many["block2_1000_prompts_over_encode"] = row["over_encode"]
            many["block2_1000_prompts_exact_over_encode"] = row["exact_over_encode"]
        last("ViT-L/14 last block, 1,000 prompts", 2, 30_000, 1000, 3)
        for n in (10_000, 1, 10, 100):
            row = last(f"ViT-B/32 last block, {n:,} prompts", 16, 30_000, n, 3)
            row["captum_over_encode"] = n * other["captum_each"]
            row["backward_over_encode"] = 1 + n * other["dictionary_each"]
        for block in (-3, -6, -12):
            earlier(f"ViT-B/32 block {block} CLS, 1 prompt", f"image.{block}.cls", small, 1, 3)
        for n in (10, 100, 10_000):
            earlier(f"ViT-B/32 block -2 CLS, {n:,} prompts", cls2, small, n, 3, exact=True)
        for n_latents in (4_000, 100_000):
            last(f"ViT-B/32 last block, {n_latents:,} latents", 16, n_latents, 1000, 3)
        for block in (-2, -12, -24):
            earlier(f"ViT-L/14 block {block} CLS, 1 prompt", f"image.{block}.cls", 2, 1, 2)
        note("ViT-L/14 peers, per prompt", peers, 2, 30_000, 64, 2, 2)
        earlier("ViT-L/14 block -2 CLS, 1,000 prompts", cls2, 2, 1000, 2, exact=True)
        for n in (1, 10_000):
            last(f"ViT-L/14 last block, {n:,} prompts", 2, 30_000, n, 2)
    lengths = pieces.piece("streams", quick, lambda: streaming(quick))
    rows += lengths
    print(lengths)
    figures = {
        "patching_over_encode": main_row["patching_over_encode"],
        "exact_over_encode": main_row["exact_over_encode"],
        "patching_over_encode_by_added_work": main_row["added_patching"],
        "exact_over_encode_by_added_work": main_row["added_exact"],
        "embedding_exact_over_encode": embedding["added_exact_only"],
        "embedding_both_over_encode": embedding["added_exact"],
        "build_seconds": main_row["build_seconds"],
        "block2_over_encode": block2["over_encode"],
        **many,
        "captum_over_encode": 1000 * other["captum_each"],
        "backward_per_prompt_over_encode": 1 + 1000 * other["dictionary_each"],
        "stream_memory_growth": lengths[1]["peak_mb"] / lengths[0]["peak_mb"] - 1,
    }
    print(json.dumps(figures, indent=2))
    write_results("attribution", figures, rows, quick=quick)


if __name__ == "__main__":
    main()
