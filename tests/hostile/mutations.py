"""Mutated checkpoints: a published file with one or two entries changed, and whether it was read right or refused.

Owns the mutations and the verdict. The truth of a mutated file is what its publisher's formula gives for it
(`tests/dictionaries/publishers.py`). Start at `verdicts`; `tests/hostile` runs 200, `benchmarks/misreadings.py`
thousands.
"""

import copy
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from clipattr.dictionaries import load_sae
from clipattr.errors import ClipattrError

sys.path.insert(0, str(Path(__file__).parents[1] / "dictionaries"))
from publishers import CASES, Undefined, X  # noqa: E402

TOLERANCE = 1e-5  # relative; above it a reading is wrong
NARROW = 1e-3  # for tensors that were stored in half precision, of which both sides see the rounded values

TENSOR_NAMES = (
    "W_enc",
    "W_dec",
    "b_enc",
    "b_dec",
    "encoder.weight",
    "encoder.bias",
    "decoder.weight",
    "threshold",
    "b_gate",
    "bias",
    "scaling_factor",
    "W_skip",
    "mean",
    "std",
    "input_scale",
    "k",
    "log_threshold",
    "b_mag",
    "r_mag",
    "pre_bias",
    "encoder.final_block.1.weight",
    "dictionary.multiplier",
    "activation.threshold",
    "decoder.bias",
    "b_dec_out",
)
VALUES = (
    True,
    False,
    None,
    0,
    1,
    2,
    3,
    5,
    28,
    10,
    -1,
    0.5,
    2.5,
    "relu",
    "topk",
    "TopK",
    "ReLU",
    "layer_norm",
    "none",
    "jumprelu",
    "gated",
    "standard",
    "batchtopk",
    "constant_norm_rescale",
    "expected_average_only_in",
    "groupmax",
    "hook_mlp_out",
    "hook_resid_pre",
    "hook_attn_out",
    "False",
    "4",
    "cls",
    "spatial",
    "all",
    "unknown",
    [4],
    {"k": 3},
    float("nan"),
)
FIELDS = (
    "normalize_activations",
    "apply_b_dec_to_input",
    "scale",
    "input_mean",
    "architecture",
    "k",
    "signed",
    "transcode",
    "is_transcoder",
    "gated_sae",
    "activation",
    "rescale_acts_by_decoder_norm",
    "normalize",
    "layer_subtype",
    "hook_point",
    "reshape_activations",
    "softcap",
    "finetuning_scaling_factor",
    "pre_encoder_bias",
    "token_mean",
    "act_fn",
)


def renamed_tensor(rng, tensors, config):
    name = rng.choice(sorted(tensors))
    new = rng.choice(
        [other for other in (*TENSOR_NAMES, name + "_old", "module." + name) if other not in tensors]
    )
    tensors[new] = tensors.pop(name)


def transposed_tensor(rng, tensors, config):
    name = rng.choice([name for name in sorted(tensors) if tensors[name].ndim >= 2] or sorted(tensors))
    value = tensors[name]
    tensors[name] = value.mT.contiguous() if value.ndim >= 2 else value[None]


def dropped_tensor(rng, tensors, config):
    tensors.pop(rng.choice(sorted(tensors)))


def added_tensor(rng, tensors, config):
    name = rng.choice([name for name in TENSOR_NAMES if name not in tensors])
    shape = rng.choice([(), (10,), (28,), (10, 28), (28, 10)])
    tensors[name] = torch.full(shape, rng.uniform(-2, 2)) if shape == () else torch.randn(shape)


def retyped_tensor(rng, tensors, config):
    name = rng.choice(sorted(tensors))
    kind = rng.choice(
        [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64]
    )
    tensors[name] = tensors[name].to(kind)


def exchanged_tensors(rng, tensors, config):
    one, other = rng.sample(sorted(tensors), 2)
    tensors[one], tensors[other] = tensors[other], tensors[one]


def cut_tensor(rng, tensors, config):
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    tensors[name] = value[:-1].contiguous() if value.ndim else value[None]


def changed_field(rng, tensors, config):
    place, name = _field(rng, config)
    place[name] = rng.choice(VALUES)


def dropped_field(rng, tensors, config):
    place, name = _field(rng, config)
    del place[name]


def renamed_field(rng, tensors, config):
    place, name = _field(rng, config)
    place[rng.choice([name + "_", name.upper(), "old_" + name, *FIELDS])] = place.pop(name)


def added_field(rng, tensors, config):
    place, _ = _field(rng, config)
    new = [name for name in FIELDS if name not in place]
    place[rng.choice(new)] = rng.choice(VALUES)


MUTATIONS = (
    renamed_tensor, transposed_tensor, dropped_tensor, added_tensor, retyped_tensor, exchanged_tensors, cut_tensor,
    changed_field, dropped_field, renamed_field, added_field,
)  # fmt: skip


def _field(rng, config):
    """A table of the settings, at any depth, and one of its names."""
    tables = [config]
    for value in config.values():
        if isinstance(value, dict) and value:
            tables.append(value)
            tables += [inner for inner in value.values() if isinstance(inner, dict) and inner]
    place = rng.choice(tables)
    return place, rng.choice(sorted(place))


def mutated(rng):
    """A case, its changed tensors and settings, and the names of the mutations."""
    while True:
        case = CASES[rng.choice(sorted(CASES))]
        tensors, config = dict(case.tensors), copy.deepcopy(case.config)
        names = []
        for change in rng.sample(MUTATIONS, rng.choice([1, 1, 1, 2])):
            if config is None and change.__name__.endswith("field"):
                continue
            try:
                change(rng, tensors, config)
            except (IndexError, ValueError, KeyError):
                continue
            names.append(change.__name__)
        if names and tensors:
            return case, tensors, config, names


def verdict(case, tensors, config, folder):
    """ "right", "refused", or a sentence that says how the file was misread."""
    x = torch.from_numpy(X)
    path = case.write(folder, tensors, config)
    try:
        made = load_sae(path, **case.keywords)
        codes = made.encode(x)
        found = codes.to_dense().numpy(), made.decode(codes).numpy()
    except ClipattrError:
        return "refused"
    except Exception as error:
        return f"crashed with {type(error).__name__}: {error}"
    try:
        z, recon, site = case.truth(tensors, config)
    except Undefined as error:
        # Without a site nothing is attributed: whatever needs the site refuses the dictionary.
        return "refused" if made.site is None else f"read although the publisher's code refuses it ({error})"
    if made.site != site:
        return f"site {made.site} instead of {site}"
    narrow = any(value.dtype in (torch.float16, torch.bfloat16) for value in tensors.values())
    for what, got, expected in (("codes", found[0], z), ("reconstruction", found[1], recon)):
        apart = np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-9)
        if not apart <= (NARROW if narrow else TOLERANCE):
            return f"{what} differ by {apart:.3g}"
    return "right"


def verdicts(count, seed):
    """(case name, mutations, verdict) of `count` mutated files; the same seed gives the same files."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        case, tensors, config, names = mutated(rng)
        folder = Path(tempfile.mkdtemp())
        try:
            yield case.name, names, verdict(case, tensors, config, folder / "file")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
