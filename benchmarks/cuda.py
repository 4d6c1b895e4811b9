"""Agreement of results on CPU and GPU, and the ratio of their times. Needs a CUDA device.

Attribution, exact ablation, an audit, a verification in pixels, encoding and dictionary training run on the CPU and on
the GPU in one process; differences and ratios of time are written.

    python benchmarks/cuda.py [--study picture-world] [--prompts N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import write_results

import clipattr as ca

WIDTH, LATENTS, K, ROWS = 768, 30_000, 64, 65_536  # of the dictionary that is trained


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the seconds it took, device included."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def opened(name: str, device: str) -> ca.Study:
    """The study with both models on a device."""
    about = ca.open_study(name).manifest
    models = {role: ca.load_model(about[role]["reference"], device=device) for role in ("model", "evaluator")}
    return ca.open_study(name, **models)


def by_latent(found: ca.Attribution, codes: bool = False) -> torch.Tensor:
    """Attributions (or codes) as (pictures, latents): the order of a picture's latents may differ between devices."""
    dense = torch.zeros(len(found.codes.indices), found.codes.n_latents)
    values = found.codes.values if codes else found.values[..., 0]
    return dense.scatter_(1, found.codes.indices.long(), values.float())


def said(findings: ca.Findings) -> list[tuple[Any, ...]]:
    return sorted((f.prompt, f.latents, f.label or "", f.kind) for f in findings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", default="picture-world")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="ten prompts, a small dictionary")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing is measured.")
    count = 10 if options.quick else options.prompts
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    cpu, gpu = opened(options.study, "cpu"), opened(options.study, "cuda")
    prompts = list(cpu.vocabulary.words)[:count]
    images = cpu.images.select(range(64))

    def compare(name: str, one: Callable[[], Any], other: Callable[[], Any]) -> tuple[Any, Any]:
        (here, seconds), (there, gpu_seconds) = timed(one), timed(other)
        rows.append({"what": name, "cpu_seconds": seconds, "cuda_seconds": gpu_seconds})
        figures[f"{name}_speedup"] = seconds / gpu_seconds
        print(f"{name:24} CPU {seconds:8.2f} s, CUDA {gpu_seconds:8.2f} s", flush=True)
        return here, there

    for method in ("patching", "exact", "integrated_gradients"):
        here, there = compare(
            f"attribute_{method}",
            lambda method=method: ca.attribute(cpu, images, prompts[0], method=method),
            lambda method=method: ca.attribute(gpu, images, prompts[0], method=method),
        )
        largest = float((by_latent(here) - by_latent(there)).abs().max())
        figures[f"attribute_{method}_largest_difference"] = largest
        same_latents = (by_latent(here, codes=True) > 0) == (by_latent(there, codes=True) > 0)
        figures["active_latents_equal"] = float(same_latents.all(1).float().mean())
    here, there = compare(
        "audit",
        lambda: ca.audit(cpu, prompts, progress=False),
        lambda: ca.audit(gpu, prompts, progress=False),
    )
    same = set(said(here)) & set(said(there))
    figures |= {"findings_cpu": len(here), "findings_cuda": len(there), "findings_equal": len(same)}
    effects = {f.prompt + str(f.latents): f.causal_effect.value for f in here}
    both = [abs(effects[f.prompt + str(f.latents)] - f.causal_effect.value) for f in there
            if f.prompt + str(f.latents) in effects]  # fmt: skip
    figures["largest_effect_difference"] = max(both, default=0.0)
    if len(here):
        one, other = compare(
            "verify",
            lambda: ca.verify(cpu, here[:4], progress=False),
            lambda: ca.verify(gpu, here[:4], progress=False),
        )
        figures["verdicts_equal"] = sum(
            a.evidence["pixels"]["verdict"] == b.evidence["pixels"]["verdict"]
            for a, b in zip(one, other, strict=True)
        ) / len(one)
    acts = torch.randn(ROWS, WIDTH)
    size, k, steps = (2048, 16, 20) if options.quick else (LATENTS, K, 20)

    def trained(device: str) -> Any:
        return ca.train_sae(acts, n_latents=size, k=k, steps=steps, batch=4096, progress=False, device=device)

    compare("train", lambda: trained("cpu"), lambda: trained("cuda"))
    with tempfile.TemporaryDirectory() as folder:
        some = cpu.images.select(range(2000))

        def collected(study: ca.Study, name: str) -> Any:
            return ca.collect_activations(
                study.model, some, "image.-1.cls", Path(folder) / name, progress=False
            )

        one, other = compare("collect", lambda: collected(cpu, "cpu"), lambda: collected(gpu, "cuda"))
        figures["collect_largest_difference"] = float((one.read(0, 2000) - other.read(0, 2000)).abs().max())
    for name, value in figures.items():
        print(f"{name:44} {value:.6g}")
    write_results("cuda", figures, rows, quick=options.quick)


if __name__ == "__main__":
    main()
