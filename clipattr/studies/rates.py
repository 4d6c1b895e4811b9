"""Rates: what this machine does in a second, for plans: decoding, encoding, a training step, codes, words, disk.

Owns the calibration, which runs the functions of a build on synthetic pictures and activations. Start at `calibrated`.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from clipattr.models.loading import Model

READ_ROWS = 1024  # activations on which reading words is measured
TEXTS = 32  # words embedded
LEAST_STEPS, MOST_STEPS = 4, 64  # training steps


def calibrated(
    model: Model,
    judge: Model,
    *,
    width: int,
    n_latents: int,
    k: int,
    trained: tuple[int, int],
    examples: int,
    rows: int,
    words: Sequence[str],
    batch: int,
    seconds: float,
) -> dict[str, float]:
    """Items per second on one worker; `seconds` for all measurements together, each of which runs at least once.

    Args:
        width: of the activations. n_latents, k, examples: of the dictionary. trained: latents, and active ones, of its
            trained part. rows: of a training step.
        words: that latents are named by; none where no latent is trained for a word.

    Returns:
        decode, encode, evaluate: pictures. alter: pictures changed and prepared. codes, examples: activations.
        train: activations of training steps. texts, judge_texts: texts embedded by the model and by the evaluator.
        read: activations of which the words are read, if there are words. disk_bytes: bytes written.
    """
    share = seconds / (9 if words else 8)
    same = judge is model
    encode, texts = _encode_rate(model, batch, share), _text_rate(model, share)
    return {
        "decode": _decode_rate(model, share),
        "encode": encode,
        "evaluate": encode if same else _encode_rate(judge, batch, share),
        "alter": _alter_rate(model, share),
        **_dictionary_rates(width, judge.embed_dim, n_latents, k, examples, share),
        "train": _train_rate(width, *trained, rows, share),
        "texts": texts,
        "judge_texts": texts if same else _text_rate(judge, share),
        **({"read": _read_rate(width, judge.embed_dim, words)} if words else {}),
        "disk_bytes": _disk_rate(),
    }


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Items per second of a function that returns its number of items; the first call is a warm-up."""
    work()
    begun, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - begun < seconds:
        done += work()
    return done / (time.perf_counter() - begun)


def _decode_rate(model: Model, seconds: float) -> float:
    """Pictures per second with as many threads as a study uses."""
    from clipattr.images.collection import Images
    from clipattr.images.decoding import difference_hash, thumbnail_bytes

    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    images = Images.open([_read(file.getvalue())])

    def prepare(_: Image.Image) -> int:
        picture = _read(file.getvalue(), 2 * max(model.image_size))
        model.prepare(picture)
        return len(thumbnail_bytes(picture)) + difference_hash(picture) % 2

    return _rate(lambda: len(list(images.stream(prepare, [0] * 16))), seconds)


def _alter_rate(model: Model, seconds: float) -> float:
    """Pictures per second that are copied, changed and prepared, one after the other."""
    side = 2 * max(model.image_size)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)

    def work() -> int:
        changed = noise.copy()
        changed[: side // 2, : side // 2] = 0
        model.prepare(Image.fromarray(changed))
        return 1

    return _rate(work, seconds)


def _read(data: bytes, draft: int | None = None) -> Image.Image:
    from clipattr.images.decoding import read_picture

    return read_picture(data, draft=draft)


def _encode_rate(model: Model, batch: int, seconds: float) -> float:
    pixels = torch.zeros(batch, 3, *model.image_size)

    def work() -> int:
        with torch.no_grad():
            model.encode_image(pixels)
        return batch

    return _rate(work, seconds)


def _dictionary_rates(
    width: int, embed: int, n_latents: int, k: int, examples: int, seconds: float
) -> dict[str, float]:
    """Codes per second, and pictures per second in the pass over examples and sums."""
    from clipattr.dictionaries import SparseCodes, random_sae
    from clipattr.meaning.summary import collect

    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(1024, width, generator=generator)
    dictionary = random_sae(acts, n_latents=n_latents, k=k)
    codes = SparseCodes.cat([dictionary.encode(acts)] * 8)
    embeddings = torch.nn.functional.normalize(
        torch.randn(len(codes), embed, generator=generator), dim=-1
    ).numpy()
    none = np.zeros(len(codes), dtype=bool)

    def coded() -> int:
        return len(dictionary.encode(acts))

    def kept() -> int:
        collect([(0, codes)], embeddings, n_latents, held_out=none, repeats=none, m=examples)
        return len(codes)

    return {"codes": _rate(coded, seconds), "examples": _rate(kept, seconds)}


def _disk_rate(size: int = 2**26) -> float:
    """Bytes per second written to the disk below the current folder, or to the temporary one."""
    place = Path.cwd() if os.access(Path.cwd(), os.W_OK) else None
    data = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=place) as file:
        begun = time.perf_counter()
        for _ in range(size // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return size / (time.perf_counter() - begun)


def _text_rate(model: Model, seconds: float) -> float:
    """Texts per second."""
    texts = [f"word number {number}" for number in range(TEXTS)]

    def work() -> int:
        model.encode_text(texts)
        return len(texts)

    return _rate(work, seconds)


def _train_rate(width: int, n_latents: int, k: int, rows: int, seconds: float) -> float:
    """Activations per second of training steps of so many, without what a training does once."""
    from clipattr.dictionaries.choosing import train_sae

    acts = torch.randn(max(2 * rows, 256), width, generator=torch.Generator().manual_seed(0))

    def lasts(steps: int) -> float:
        begun = time.perf_counter()
        train_sae(acts, n_latents, min(k, n_latents), steps=steps, batch=rows, progress=False)
        return time.perf_counter() - begun

    once, steps = lasts(1), LEAST_STEPS
    while True:
        spent = lasts(1 + steps)
        if spent >= seconds or steps >= MOST_STEPS:
            return rows * steps / max(spent - once, 1e-9)
        steps *= 4


def _read_rate(width: int, embed: int, words: Sequence[str]) -> float:
    """Activations per second of which all words are read."""
    from clipattr.dictionaries.joined import readings

    generator = torch.Generator().manual_seed(0)

    def unit(n: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(n, embed, generator=generator), dim=1)

    acts = torch.randn(READ_ROWS, width, generator=generator)
    begun = time.perf_counter()
    readings(acts, unit(READ_ROWS), unit(len(words)), words)
    return READ_ROWS / (time.perf_counter() - begun)
