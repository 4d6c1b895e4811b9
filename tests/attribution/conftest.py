"""A float64 CLIP with a small random dictionary: what closed forms and methods are compared on."""

from types import SimpleNamespace

import pytest
import torch

import clipattr
from clipattr.dictionaries.codes import SparseCodes


def random_codes(
    batch: int, k: int, n_latents: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> SparseCodes:
    """k distinct latents per row with amounts of the size that real codes have."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, n_latents, generator=generator).topk(k).indices
    return SparseCodes(
        indices.int(), torch.rand(batch, k, generator=generator, dtype=dtype) * 2 + 0.1, n_latents
    )


def random_directions(n_latents: int, width: int, seed: int = 1, dtype: torch.dtype = torch.float64):
    """A frozen dictionary with unit rows; `encode` takes the six largest products."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(
        torch.randn(n_latents, width, generator=generator, dtype=dtype), dim=1
    )
    bias = 0.3 * torch.randn(width, generator=generator, dtype=dtype)

    def encode(acts):
        values, indices = ((acts - bias) @ decoder.T).topk(6, dim=-1)
        return SparseCodes(indices.int(), values.clamp_min(0), n_latents)

    def decode(codes):
        codes = codes.to_fixed()
        return bias + torch.einsum("bk,bkd->bd", codes.values, decoder[codes.indices.long()])

    return SimpleNamespace(
        decoder=decoder,
        bias=bias,
        n_latents=n_latents,
        width=width,
        k=6,
        kind="random",
        site="image.-1.cls",
        model_hash=None,
        hash="0" * 16,
        encode=encode,
        decode=decode,
        error=lambda acts, codes: acts - decode(codes),
    )


@pytest.fixture(scope="session")
def exact_model(tiny_model):
    return clipattr.load_model(tiny_model, dtype=torch.float64)


@pytest.fixture(scope="session")
def directions(exact_model):
    return random_directions(80, exact_model.image_width)


@pytest.fixture(scope="session")
def pictures(exact_model):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(4, 3, *exact_model.image_size, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def acts(exact_model, pictures):
    with torch.no_grad():
        return clipattr.activations(exact_model, pictures, clipattr.Site("image.-1.cls"))


@pytest.fixture(scope="session")
def weights(exact_model):
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(7, exact_model.embed_dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1).T
