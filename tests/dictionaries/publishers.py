"""Publishers' formats written again: a file of each, and its forward pass in float64 numpy from the file's own content.

Each case holds tensors, settings and keywords, and a function that computes codes, reconstruction and site from them
as the publisher's code does, or raises where that code would refuse the file. The functions take whatever tensors and
settings they are given, so that mutated files have a truth too. Start at `CASES`.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

D, N, K = 10, 28, 4
LAYER = 3


class Undefined(Exception):
    """The publisher's own code would refuse this file, or it is not the publisher's format."""


def draw(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng([seed, *shape]).normal(size=shape)).astype(np.float32)


X = draw(40, D, seed=99) * 2 + 1.5
# Large biases and decoder rows of unequal length: a forgotten pre-bias, transpose, length or ReLU shows.
W = draw(N, D, seed=1)
DEC = draw(N, D, seed=2) * (0.5 + np.arange(N, dtype=np.float32)[:, None] / N)
B_ENC, B_DEC = draw(N, seed=3) * 0.7, draw(D, seed=4)
R_MAG, B_MAG, B_GATE = draw(N, seed=5) * 0.5, draw(N, seed=6), draw(N, seed=7)
THETA = np.abs(draw(N, seed=8)) + 0.3


def relu(z):
    return np.maximum(z, 0)


def topk(z, k):
    if not 1 <= k <= z.shape[1]:
        raise Undefined("k")
    cut = -np.sort(-z, axis=1)[:, k - 1 : k]
    return z * (z >= cut)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row_norm(x, how):
    """x~, and what multiplies and is added to undo it."""
    if how == "none":
        return x, 1.0, 0.0
    if how == "layer_norm":
        mean, deviation = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        return (x - mean) / (deviation + 1e-5), deviation, mean
    if how == "constant_norm_rescale":
        size = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
        return x / size, size, 0.0
    raise Undefined(f"normalisation {how!r}")


def t(**arrays):
    return {name.replace("__", "."): torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def sl(**more):
    return t(W_enc=W.T, W_dec=DEC, b_dec=B_DEC, **more)


@dataclass
class Case:
    """One file of a publisher.

    Attributes:
        name, format: of the case; of the reader that should recognise it.
        tensors, config, keywords: the file's content, its settings (None: no file beside it), what load_sae is told.
        forward: (tensors as float64 arrays, settings, keywords, x) to codes of unit directions, reconstruction and
            site; raises KeyError or Undefined where the publisher's code would.
        weights, config_name: file names. wrap: puts the tensors into what the file holds. inside: whether settings are
            part of that. header: whether they are a line of JSON before the weights.
        buffers: tensors that the publisher stores and does not use.
    """

    name: str
    format: str
    tensors: dict
    forward: object
    config: dict | None = None
    keywords: dict = field(default_factory=dict)
    weights: str = "sae.pt"
    config_name: str = "config.json"
    wrap: object = None
    inside: bool = False
    header: bool = False
    buffers: tuple = ()
    optional: tuple = ()

    def write(self, folder, tensors=None, config=None):
        """Write the file, with other tensors or settings if given; returns the path to load."""
        folder = Path(folder)
        folder.mkdir(exist_ok=True)
        tensors = self.tensors if tensors is None else tensors
        config = self.config if config is None else config
        file = folder / self.weights
        file.parent.mkdir(exist_ok=True)
        if self.weights.endswith(".safetensors"):
            save_file({name: value.contiguous() for name, value in tensors.items()}, file)
        else:
            content = tensors
            if self.wrap is not None:
                content = self.wrap(tensors, config) if self.inside else self.wrap(tensors)
            buffer = io.BytesIO()
            torch.save(content, buffer)
            start = json.dumps(config).encode() + b"\n" if self.header else b""
            file.write_bytes(start + buffer.getvalue())
        if config is not None and not self.inside and not self.header:
            (folder / self.config_name).write_text(json.dumps(config))
        return file

    def truth(self, tensors=None, config=None, x=X):
        """Codes, reconstruction and site of a file with these tensors and settings.

        Raises:
            Undefined: the publisher's code would refuse it.
        """
        tensors = self.tensors if tensors is None else tensors
        config = self.config if config is None else config
        allowed = set(self.tensors) | set(self.optional)
        if strange := set(tensors) - allowed:
            raise Undefined(f"tensors {strange}")
        arrays = {name: value.double().numpy() for name, value in tensors.items()}
        for name, value in tensors.items():
            whole = name in ("k", "group_sizes") or name in self.buffers
            if name in self.tensors and value.shape != self.tensors[name].shape and name not in self.buffers:
                raise Undefined(f"shape of {name}")
            if not value.is_floating_point() and not whole:
                raise Undefined(f"type of {name}")
        try:
            with np.errstate(all="ignore"):
                return self.forward(arrays, config, self.keywords, x.astype(np.float64))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Undefined(repr(error)) from error


CASES: dict[str, Case] = {}


def case(name, format, tensors, **options):
    def keep(forward):
        CASES[name] = Case(name, format, tensors, forward, **options)
        return forward

    return keep


def scaled(z, rows):
    """Codes of directions of unit length."""
    return z * np.linalg.norm(rows, axis=1)


def plain(a, z, x=None):
    return scaled(z, a["W_dec"]), z @ a["W_dec"] + a["b_dec"]


def site(layer, tokens, stream="resid_post"):
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise Undefined("layer")
    if stream == "resid_pre":
        if layer == 0:
            raise Undefined("before block 0")
        layer, stream = layer - 1, "resid_post"
    middle = "" if stream == "resid_post" else stream + "."
    return f"image.{layer}.{middle}{ {'cls': 'cls', 'spatial': 'patches', 'patches': 'patches', 'all': 'all'}[tokens] }"


def sizes(config, n=N, d=D, **named):
    """A field that states a size must state the right one."""
    for name, value in named.items():
        stated = config.get(name)
        if stated not in (None, 0) and stated != value:
            raise Undefined(f"{name} = {stated}")


def boolean(config, name, default=None):
    value = config.get(name, default)
    if value is None:
        value = default
    if not isinstance(value, bool):
        raise Undefined(f"{name} = {value!r}")
    return value


def gated(pre, a, gate="b_gate", magnitude="b_mag"):
    return relu(np.exp(a["r_mag"]) * pre + a[magnitude]) * (pre + a[gate] > 0)


def whole(value):
    if isinstance(value, bool) or float(value) != int(float(value)) or int(float(value)) < 1:
        raise Undefined(f"k = {value!r}")
    return int(float(value))


# attributing-clip

AC = t(
    encoder__0__weight_g=np.abs(draw(N, 1, seed=11)) + 0.5,
    encoder__0__weight_v=W,
    encoder__0__bias=B_ENC,
    decoder__weight_g=np.ones((1, N), np.float32),
    decoder__weight_v=DEC.T,
)


def attributing_clip(a, config, keywords, x):
    g, v, g_dec, v_dec = (
        a[name]
        for name in ("encoder.0.weight_g", "encoder.0.weight_v", "decoder.weight_g", "decoder.weight_v")
    )
    sizes(config, sae_hidden_dim=N)
    rows = unit(v_dec.T) * g_dec.T
    z = topk(x @ (g * unit(v)).T + a["encoder.0.bias"], whole(config["sae_k"]))
    return scaled(z, rows), z @ rows, site(config["sae_layer_idx"], config["sae_token"])


case(
    "attributing-clip",
    "attributing-clip",
    AC,
    weights="last.ckpt",
    config={
        "sae_hidden_dim": N,
        "sae_k": K,
        "sae_layer_idx": -2,
        "sae_token": "spatial",
        "model_name": "ViT-B-32",
    },
    wrap=lambda tensors: {"state_dict": tensors, "epoch": 3, "global_step": 7},
)(attributing_clip)


# HugoFry and its heirs


def hugofry(a, config, keywords, x):
    sizes(config, d_in=D, d_sae=N, expansion_factor=N / D)
    if config.get("module_name", "resid") != "resid":
        raise Undefined("module")
    pre = (x - a["b_dec"]) @ a["W_enc"]
    if boolean(config, "gated_sae", False):
        if "b_gate" in a:
            raise Undefined("b_gate")
        z = gated(pre, a, "b_enc")
    else:
        if {"r_mag", "b_mag"} & set(a):
            raise Undefined("gated tensors")
        z = relu(pre + a["b_enc"])
    return *plain(a, z), site(config["block_layer"], "cls" if boolean(config, "class_token") else "all")


HUGO = {
    "block_layer": -2,
    "module_name": "resid",
    "class_token": True,
    "d_in": D,
    "l1_coefficient": 1e-4,
    "lr": 1e-3,
    "gated_sae": False,
    "dtype": "float32",
    "model_name": "openai/clip-vit-base-patch16",
}
case(
    "hugofry",
    "hugofry",
    sl(b_enc=B_ENC),
    config=HUGO,
    inside=True,
    wrap=lambda tensors, config: {"cfg": config, "state_dict": tensors},
)(hugofry)
case(
    "hugofry, gated",
    "hugofry",
    sl(b_enc=B_GATE, r_mag=R_MAG, b_mag=B_MAG),
    config=HUGO | {"gated_sae": True, "block_layer": 11},
    inside=True,
    wrap=lambda tensors, config: {"config": config, "state_dict": tensors},
)(hugofry)


# Prisma


def prisma_site(config, layer="hook_point_layer", subtype="layer_subtype"):
    if config.get("hook_point_head_index") is not None:
        raise Undefined("head")
    cls, patches = boolean(config, "cls_token_only", False), boolean(config, "use_patches_only", False)
    if "cls_token_only" not in config and "use_patches_only" not in config:
        raise Undefined("tokens")
    if cls and patches:
        raise Undefined("tokens")
    streams = {
        "hook_resid_post": "resid_post",
        "hook_resid_pre": "resid_pre",
        "hook_resid_mid": "resid_mid",
        "hook_mlp_out": "mlp_out",
        "hook_attn_out": "attn_out",
        "ln2.hook_normalized": "mlp_in",
    }
    tokens = "cls" if cls else "patches" if patches else "all"
    return site(config[layer], tokens, streams[config[subtype]])


def prisma(a, config, keywords, x):
    sizes(config, d_in=D, d_sae=N, expansion_factor=N / D)
    if boolean(config, "is_transcoder", False) or {"b_dec_out", "W_skip"} & set(a):
        raise Undefined("transcoder")
    architecture = config.get("architecture") or "standard"
    x, size, shift = row_norm(x, config["normalize_activations"])
    pre = (x - a["b_dec"]) @ a["W_enc"]
    name = config["activation_fn_str"]
    kwargs = config.get("activation_fn_kwargs") or {}
    if architecture == "gated":
        if name != "relu":
            raise Undefined("gated activation")
        z = gated(pre, a)
    elif architecture != "standard" or {"b_gate", "r_mag", "b_mag"} & set(a):
        raise Undefined("architecture")
    elif name == "topk":
        z = relu(topk(pre + a["b_enc"], whole(kwargs["k"])))
    elif name == "relu":
        z = relu(pre + a["b_enc"])
    elif name == "tanh-relu":
        z = np.tanh(relu(pre + a["b_enc"]))
    else:
        raise Undefined("activation")
    if set(kwargs) - {"k"}:
        raise Undefined("kwargs")
    codes, recon = plain(a, z)
    return codes * size, recon * size + shift, prisma_site(config)


PRISMA = {
    "architecture": "standard",
    "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": K},
    "normalize_activations": "layer_norm",
    "hook_point_layer": LAYER,
    "layer_subtype": "hook_resid_post",
    "cls_token_only": True,
    "use_patches_only": False,
    "context_size": 50,
    "d_in": D,
    "is_transcoder": False,
    "lr": 4e-4,
    "_dtype": "float32",
    "model_name": "open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    "max_grad_norm": 1.0,
    "hook_point_head_index": None,
}
case("prisma, topk, layer norm", "prisma", sl(b_enc=B_ENC), config=PRISMA, weights="weights.pt")(prisma)
case(
    "prisma, relu, constant norm, mlp_out",
    "prisma",
    sl(b_enc=B_ENC),
    weights="weights.pt",
    config=PRISMA
    | {
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "cls_token_only": False,
        "normalize_activations": "constant_norm_rescale",
        "layer_subtype": "hook_mlp_out",
    },
)(prisma)
case(
    "prisma, tanh, attn_out of patches",
    "prisma",
    sl(b_enc=B_ENC),
    weights="weights.pt",
    config=PRISMA
    | {
        "activation_fn_str": "tanh-relu",
        "activation_fn_kwargs": {},
        "cls_token_only": False,
        "use_patches_only": True,
        "normalize_activations": "none",
        "layer_subtype": "hook_attn_out",
    },
)(prisma)
case(
    "prisma, gated, resid_pre, in one file",
    "prisma",
    sl(b_enc=B_ENC, r_mag=R_MAG, b_mag=B_MAG, b_gate=B_GATE),
    inside=True,
    config=PRISMA
    | {
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "architecture": "gated",
        "normalize_activations": "none",
        "layer_subtype": "hook_resid_pre",
    },
    wrap=lambda tensors, config: {"cfg": config, "state_dict": tensors},
    buffers=("b_enc",),
)(prisma)


# MSAE

MEAN = draw(D, seed=12)


def msae(a, config, keywords, x):
    """config stands for the content beside the state dict."""
    told = keywords | {}
    mean, scale = (
        np.array(config["mean_center"]).astype(np.float32).astype(np.float64),
        float(config["scaling_factor"]),
    )
    if isinstance(config["scaling_factor"], bool) or not scale > 0 or mean.size not in (1, D):
        raise Undefined("scale")
    pre = ((x - mean) * scale - a["pre_bias"]) @ a["encoder"] + a["latent_bias"]
    kind = told["activation"]
    if kind == "ReLU":
        z = relu(pre)
    elif kind == "TopKReLU":
        z = relu(topk(pre, told["k"]))
    elif kind == "TopK":
        z = topk(pre, told["k"])
    else:
        z = pre * (pre > np.exp(a["activation.log_threshold"]))
    if told["softcap"]:
        z = told["softcap"] * np.tanh(z / told["softcap"])
    rows = a["encoder"].T if told["tied"] else a["decoder"]
    return scaled(z, rows) / scale, (z @ rows + a["pre_bias"]) / scale + mean, told["site"]


def msae_case(name, more=None, drop=(), **keywords):
    told = {
        "activation": "ReLU",
        "softcap": 0,
        "normalize": False,
        "tied": False,
        "site": "image.embedding",
    } | keywords
    tensors = t(encoder=W.T, decoder=DEC, pre_bias=B_DEC, latent_bias=B_ENC) | (more or {})
    tensors = {name: value for name, value in tensors.items() if name not in drop}
    tensors["latents_activation_frequency"] = torch.arange(N)
    case(
        name,
        "msae",
        tensors,
        keywords=told,
        inside=True,
        weights="model.pth",
        config={"mean_center": MEAN.tolist(), "scaling_factor": 0.37, "target_norm": 1.0},
        wrap=lambda tensors, config: {
            "model": tensors,
            **{
                n: torch.tensor(v) if isinstance(v, list) and n == "mean_center" else v
                for n, v in config.items()
            },
        },
        buffers=("latents_activation_frequency",),
    )(msae)


msae_case("msae, soft cap", softcap=2.0)
msae_case("msae, topk keeps signs", activation="TopK", k=K)
msae_case("msae, topk with a ReLU, tied", activation="TopKReLU", k=K, tied=True, drop=("decoder",))
msae_case("msae, jumprelu", t(activation__log_threshold=np.log(THETA)), activation="JumpReLU")


# DN-CBM


def dn_cbm(a, config, keywords, x):
    if len({a[name].tobytes() for name in a if "bias_reference" in name or name == "tied_bias"}) != 1:
        raise Undefined("biases")
    bias = next(a[name] for name in sorted(a) if "bias_reference" in name or name == "tied_bias")[0]
    rows = a["decoder._weight"][0].T
    z = relu((x - bias) @ a["encoder._weight"][0].T + a["encoder._bias"][0])
    return scaled(z, rows), z @ rows + bias, "image.embedding"


case(
    "dn-cbm",
    "dn-cbm",
    {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in {
            "tied_bias": B_DEC[None],
            "pre_encoder_bias._bias_reference": B_DEC[None],
            "encoder._weight": W[None],
            "encoder._bias": B_ENC[None],
            "decoder._weight": DEC.T[None],
            "post_decoder_bias._bias_reference": B_DEC[None],
        }.items()
    },
    weights="sparse_autoencoder_final.pt",
)(dn_cbm)


# clipscope


def clipscope(a, config, keywords, x):
    sizes(config, n_features=N, d_in=D)
    z = topk((x - a["pre_b"]) @ a["enc"], whole(config["k"]))
    return scaled(z, a["dec"]), z @ a["dec"] + a["pre_b"], keywords["site"]


case(
    "clipscope",
    "clipscope",
    t(pre_b=B_DEC, enc=W.T, dec=DEC),
    config={"n_features": N, "d_in": D, "k": K},
    inside=True,
    wrap=lambda tensors, config: {**config, "model_state_dict": tensors},
    keywords={"site": "image.-2.all"},
)(clipscope)


# saev


def saev(a, config, keywords, x):
    if config["schema"] not in (1, 2, 3, 4, 5) or isinstance(config["schema"], bool):
        raise Undefined("schema")
    cfg = config["cfg"]
    sizes(cfg, d_model=D, d_sae=N, exp_factor=N / D)
    activation = cfg["activation"]
    name, params = activation["cls"], activation.get("params") or {}
    pre = x @ a["W_enc"] + a["b_enc"]
    if name != "BatchTopK" and "activation.threshold" in a:
        raise Undefined("threshold")
    if name == "Relu":
        z = relu(pre)
    elif name == "TopK":
        z = topk(pre, whole(params["top_k"]))
    elif name == "BatchTopK":
        whole(params["top_k"])
        theta = a["activation.threshold"]
        z = relu(pre) if theta <= 0 else pre * (pre > theta)
    else:
        raise Undefined(name)
    return *plain(a, z), keywords["site"]


def saev_case(name, cls, more=None, **params):
    config = {
        "schema": 5,
        "cfg": {"d_model": D, "d_sae": N, "activation": {"cls": cls, "params": params}},
        "commit": "x",
        "lib": "0.1",
    }
    case(
        name,
        "saev",
        sl(b_enc=B_ENC) | (more or {}),
        config=config,
        header=True,
        keywords={"site": "image.-2.patches"},
    )(saev)


saev_case("saev, relu", "Relu")
saev_case("saev, topk with signs", "TopK", top_k=K)
saev_case("saev, batch topk", "BatchTopK", {"activation.threshold": torch.tensor(1.1)}, top_k=K)


def saev0(a, config, keywords, x):
    if "schema" in config:
        raise Undefined("schema")
    sizes(config, d_vit=D, exp_factor=N / D)
    mean, scalar = keywords["mean"].double().numpy(), keywords["scalar"]
    z = relu(((x - mean) / scalar - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    codes, recon = plain(a, z)
    return codes * scalar, recon * scalar + mean, keywords["site"]


case(
    "saev0",
    "saev0",
    sl(b_enc=B_ENC),
    config={"d_vit": D, "exp_factor": N / D, "n_reinit_samples": 1, "seed": 0},
    header=True,
    keywords={"mean": torch.from_numpy(MEAN), "scalar": 2.6, "site": "image.-2.patches"},
)(saev0)


# SAELens


def saelens(a, config, keywords, x):
    metadata = config.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise Undefined("metadata")
    old = not metadata
    sizes(config, d_in=D, d_sae=N)
    if config.get("reshape_activations") not in (None, "none") or config.get("hook_head_index") is not None:
        raise Undefined("heads")
    how = config.get("normalize_activations")
    how = {True: "expected_average_only_in", False: "none", None: "none"}.get(how, how)
    scale = keywords.get("scale", 1.0)
    if how == "expected_average_only_in":
        if "scale" not in keywords:
            raise Undefined("scale")
        how, x = "none", x * scale
    elif "scale" in keywords and how != "none":
        raise Undefined("scale")
    elif "scale" in keywords:
        x = x * scale
    x, size, shift = row_norm(x, how)
    architecture = config.get("architecture") or ("standard" if old else None)
    name = str(config.get("activation_fn_str") or config.get("activation_fn") or "relu").lower()
    kwargs = config.get("activation_fn_kwargs") or {}
    if set(kwargs) - {"k"}:
        raise Undefined("kwargs")
    if old and architecture == "standard" and name in ("topk", "tanh-relu"):
        architecture = name
    elif name not in ("relu", architecture):
        raise Undefined("activation")
    before = boolean(config, "apply_b_dec_to_input", True if old else None)
    pre = (x - a["b_dec"] * before) @ a["W_enc"]
    factor = a.get("scaling_factor", np.ones(N))
    tuned = boolean(config, "finetuning_scaling_factor", False)
    if tuned != ("scaling_factor" in a) and not (not tuned and (factor == 1).all()):
        raise Undefined("scaling factor")
    lengths = np.linalg.norm(a["W_dec"], axis=1)
    rescale = boolean(config, "rescale_acts_by_decoder_norm", False)
    if rescale and architecture not in ("topk", "batchtopk"):
        raise Undefined("rescale")
    used = {"W_enc", "W_dec", "b_dec", "scaling_factor"}
    if architecture == "gated":
        used |= {"b_gate", "b_mag", "r_mag"}
        z = gated(pre, a)
    else:
        used |= {"b_enc"}
        pre = (pre + a["b_enc"]) * (lengths if rescale else 1)
        if architecture == "standard":
            z = relu(pre)
        elif architecture == "tanh-relu":
            z = np.tanh(relu(pre))
        elif architecture == "topk":
            k = config.get("k")
            z = relu(topk(pre, whole(kwargs["k"] if k is None else k)))
        elif architecture == "jumprelu":
            used |= {"threshold"}
            z = relu(pre) * (pre > a["threshold"])
        elif architecture == "batchtopk":
            used |= {"topk_threshold"}
            z = relu(pre) * (pre > a["topk_threshold"])
            if a["topk_threshold"] < 0 or isinstance(config["k"], bool) or not float(config["k"]) > 0:
                raise Undefined("threshold")
        else:
            raise Undefined("architecture")
        z = z / (lengths if rescale else 1)
    if set(a) - used:
        raise Undefined("tensors")
    z = z * factor
    codes, recon = plain(a, z)
    return codes * size / scale, recon * size / scale + shift, keywords["site"]


LENS = {
    "architecture": "standard",
    "d_in": D,
    "d_sae": N,
    "dtype": "float32",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.18.0", "hook_name": "blocks.3.hook_resid_post", "model_name": "clip"},
}
SITE = {"site": "image.3.cls"}


def lens_case(name, tensors, config, drop=(), **keywords):
    config = {name: value for name, value in (LENS | config).items() if name not in drop}
    case(
        name,
        "saelens",
        tensors,
        config=config,
        config_name="cfg.json",
        weights="sae_weights.safetensors",
        keywords=SITE | keywords,
    )(saelens)


lens_case("saelens 6, standard without pre-bias", sl(b_enc=B_ENC), {"apply_b_dec_to_input": False})
lens_case(
    "saelens 6, topk by decoder norm",
    sl(b_enc=B_ENC),
    {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
)
lens_case(
    "saelens 6, jumprelu, layer norm",
    sl(b_enc=B_ENC, threshold=THETA),
    {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
)
lens_case("saelens 6, gated", sl(b_gate=B_GATE, b_mag=B_MAG, r_mag=R_MAG), {"architecture": "gated"})
lens_case(
    "saelens 6, batch topk in training",
    sl(b_enc=B_ENC) | {"topk_threshold": torch.tensor(0.9, dtype=torch.float64)},
    {"architecture": "batchtopk", "k": K, "normalize_activations": "expected_average_only_in"},
    scale=0.6,
)
lens_case(
    "saelens before 6, topk, fine-tuned factors",
    sl(b_enc=B_ENC, scaling_factor=THETA),
    {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "hook_point": "x",
        "finetuning_scaling_factor": True,
    },
    drop=("metadata", "architecture", "apply_b_dec_to_input", "reshape_activations"),
)


# dictionary_learning

CLASSES = {
    "AutoEncoder": ("standard", "new"),
    "AutoEncoderNew": ("new",),
    "GatedAutoEncoder": ("gated",),
    "JumpReluAutoEncoder": ("jumprelu",),
    "AutoEncoderTopK": ("topk",),
    "BatchTopKSAE": ("topk",),
    "MatryoshkaBatchTopKSAE": ("matryoshka",),
}
LAYOUTS = {
    "standard": {"bias", "encoder.weight", "encoder.bias", "decoder.weight"},
    "new": {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"},
    "gated": {"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"},
    "topk": {"k", "threshold", "encoder.weight", "encoder.bias", "decoder.weight", "b_dec"},
    "matryoshka": {"k", "threshold", "group_sizes", "W_enc", "W_dec", "b_enc", "b_dec"},
    "jumprelu": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
}


def dl(a, config, keywords, x):
    trainer = config.get("trainer") or {}
    name = trainer.get("dict_class")
    sizes(trainer, activation_dim=D, dict_size=N)
    fitting = [
        layout
        for layout, names in LAYOUTS.items()
        if set(a) in (names, names - {"threshold"} if layout == "topk" else names)
    ]
    if len(fitting) != 1 or (name is not None and fitting[0] not in CLASSES[name]):
        raise Undefined("class")
    layout = fitting[0]
    if (
        layout in ("topk", "matryoshka")
        and trainer.get("k") is not None
        and whole(trainer["k"]) != int(a["k"])
    ):
        raise Undefined("k")
    if layout in ("matryoshka", "jumprelu"):
        if layout == "matryoshka" and (
            a["threshold"] < 0 or int(a["group_sizes"].sum()) != N or (a["group_sizes"] < 1).any()
        ):
            raise Undefined("threshold")
        before = True if layout == "matryoshka" else keywords["pre_bias"]
        pre = (x - a["b_dec"] * before) @ a["W_enc"] + a["b_enc"]
        return *plain(a, relu(pre) * (pre > a["threshold"])), keywords["site"]
    rows = a["decoder.weight"].T
    if layout == "gated":
        bias = a["decoder_bias"]
        z = gated((x - bias) @ a["encoder.weight"].T, a, "gate_bias", "mag_bias")
    elif layout == "new":
        bias = a["decoder.bias"]
        z = relu(x @ a["encoder.weight"].T + a["encoder.bias"])
    else:
        bias = a["bias" if layout == "standard" else "b_dec"]
        z = relu((x - bias) @ a["encoder.weight"].T + a["encoder.bias"])
        if layout == "topk" and name == "AutoEncoderTopK":
            z = topk(z, whole(a["k"]))
        elif layout == "topk":
            if name is None or a["threshold"] < 0:
                raise Undefined("threshold")
            z = z * (z > a["threshold"])
    return scaled(z, rows), z @ rows + bias, keywords["site"]


LINEAR = {"encoder__weight": W, "encoder__bias": B_ENC, "decoder__weight": DEC.T}
TOPK = t(**LINEAR, b_dec=B_DEC) | {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.8)}


def dl_case(name, dict_class, tensors, trainer=None, **options):
    config = {
        "trainer": {
            "dict_class": dict_class,
            "activation_dim": D,
            "dict_size": N,
            "lr": 1e-4,
            **(trainer or {}),
        },
        "buffer": {"d_submodule": D},
    }
    keywords = SITE | options.pop("keywords", {})
    case(name, "dictionary-learning", tensors, config=config, weights="ae.pt", keywords=keywords, **options)(
        dl
    )


dl_case("dictionary_learning, standard", "AutoEncoder", t(**LINEAR, bias=B_DEC))
dl_case(
    "dictionary_learning, new, nested backup",
    "AutoEncoderNew",
    t(**LINEAR, decoder__bias=B_DEC),
    wrap=lambda tensors: {"step": 5, "ae": tensors},
)
dl_case("dictionary_learning, topk", "AutoEncoderTopK", TOPK, {"k": K})
dl_case("dictionary_learning, batch topk", "BatchTopKSAE", TOPK, {"k": K})
dl_case(
    "dictionary_learning, matryoshka",
    "MatryoshkaBatchTopKSAE",
    sl(b_enc=B_ENC)
    | {"k": torch.tensor(K), "threshold": torch.tensor(0.8), "group_sizes": torch.tensor([8, 20])},
    {"norm_factor": 3},
)
dl_case(
    "dictionary_learning, jumprelu",
    "JumpReluAutoEncoder",
    sl(b_enc=B_ENC, threshold=THETA),
    keywords={"pre_bias": False},
)
dl_case(
    "dictionary_learning, gated",
    "GatedAutoEncoder",
    t(
        decoder_bias=B_DEC,
        encoder__weight=W,
        r_mag=R_MAG,
        gate_bias=B_GATE,
        mag_bias=B_MAG,
        decoder__weight=DEC.T,
    ),
)


# sparsify


def sparsify(a, config, keywords, x):
    stated = config.get("num_latents")
    sizes(config, num_latents=N, d_in=D, **({} if stated else {"expansion_factor": N / D}))
    if boolean(config, "transcode", False) or boolean(config, "skip_connection", False) or "W_skip" in a:
        raise Undefined("transcoder")
    pre = (x - a["b_dec"]) @ a["encoder.weight"].T + a["encoder.bias"]
    k, signed = whole(config["k"]), boolean(config, "signed", False)
    if config["activation"] == "groupmax" and not signed:
        if N % k:
            raise Undefined("k")
        groups = relu(pre).reshape(len(x), k, -1)
        z = (groups * (groups == groups.max(-1, keepdims=True))).reshape(len(x), N)
    elif config["activation"] == "topk":
        z = topk(pre if signed else relu(pre), k)
    else:
        raise Undefined("activation")
    return *plain(a, z), keywords["site"]


SPARSE = t(encoder__weight=W, encoder__bias=B_ENC, W_dec=DEC, b_dec=B_DEC)
for named, more in (
    ("sparsify", {"activation": "topk", "num_latents": N}),
    ("sparsify, group max", {"activation": "groupmax", "num_latents": 0}),
):
    case(
        named,
        "sparsify",
        SPARSE,
        config={
            "expansion_factor": N / D,
            "normalize_decoder": True,
            "k": K,
            "multi_topk": False,
            "d_in": D,
            **more,
        },
        config_name="cfg.json",
        weights="sae.safetensors",
        keywords=SITE,
    )(sparsify)


# OpenAI


def openai(a, config, keywords, x):
    name = config["activation"]
    if name == "TopK":
        x, size, shift = row_norm(x, "layer_norm" if keywords["normalize"] else "none")
    elif name == "ReLU" and not keywords.get("normalize"):
        size, shift = 1.0, 0.0
    else:
        raise Undefined("activation")
    pre = (x - a["pre_bias"]) @ a["encoder.weight"].T + a["latent_bias"]
    rows = a["decoder.weight"].T if "decoder.weight" in a else a["decoder.linear.weight"]
    if name == "TopK":
        state = config["activation_state_dict"]
        if set(state) - {"k", "postact_fn"}:
            raise Undefined("state")
        after = str(state.get("postact_fn") or "ReLU").removesuffix("()")
        z = topk(pre, whole(state["k"]))
        z = {"ReLU": relu, "Identity": lambda z: z}[after](z)
    else:
        z = relu(pre)
    return scaled(z, rows) * size, (z @ rows + a["pre_bias"]) * size + shift, keywords["site"]


OPEN = t(pre_bias=B_DEC, encoder__weight=W, latent_bias=B_ENC, decoder__weight=DEC.T) | {
    "stats_last_nonzero": torch.arange(N)
}


def openai_case(name, config, tensors=OPEN, **keywords):
    case(
        name,
        "openai",
        tensors,
        config=config,
        inside=True,
        keywords=SITE | keywords,
        wrap=lambda tensors, config: {**tensors, **config},
        buffers=("stats_last_nonzero",),
    )(openai)


OPEN_TOPK = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
openai_case("openai, topk with layer norm", OPEN_TOPK, normalize=True)
openai_case("openai, an heir without layer norm", OPEN_TOPK, normalize=False)
openai_case("openai, relu", {"activation": "ReLU"})
openai_case(
    "openai, tied",
    OPEN_TOPK,
    {
        "decoder.linear.weight" if n == "decoder.weight" else n: OPEN["encoder.weight"].clone()
        if n == "decoder.weight"
        else v
        for n, v in OPEN.items()
    },
    normalize=True,
)


# overcomplete

NORMS = {
    "l2": lambda rows: rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8),
    "max_l2": lambda rows: rows / np.linalg.norm(rows, axis=1).max(),
    "l1": lambda rows: rows / (np.abs(rows).sum(1, keepdims=True) + 1e-8),
    "max_l1": lambda rows: rows / np.abs(rows).sum(1).max(),
    "identity": lambda rows: rows,
}
BLOCK = "encoder.final_block"


def overcomplete(a, config, keywords, x):
    pre = x @ a[f"{BLOCK}.0.weight"].T + a[f"{BLOCK}.0.bias"]
    if f"{BLOCK}.1.running_var" in a or f"{BLOCK}.1.weight" in a:
        norm = [a[f"{BLOCK}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        pre = (pre - norm[0]) / np.sqrt(norm[1] + 1e-5) * norm[2] + norm[3]
    rows = NORMS[keywords["normalize"]](a["dictionary._weights"]) * np.exp(
        a.get("dictionary.multiplier", 0.0)
    )
    kind = keywords["activation"]
    if ("thresholds" in a) != (kind == "jumprelu"):
        raise Undefined("thresholds")
    if kind == "jumprelu":
        z = relu(pre) * (relu(pre) >= np.exp(a["thresholds"]))
    elif kind == "topk":
        z = topk(relu(pre), keywords["k"])
    elif kind == "batchtopk":
        z = relu(pre) * (relu(pre) >= keywords["threshold"])
    else:
        z = relu(pre)
    return scaled(z, rows), z @ rows, keywords["site"]


def overcomplete_case(name, normalize, activation, more=None, **keywords):
    tensors = {
        f"{BLOCK}.0.weight": W,
        f"{BLOCK}.0.bias": B_ENC,
        "dictionary._weights": DEC,
        "dictionary.multiplier": np.array(0.4, np.float32),
    }
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in tensors.items()} | (more or {})
    case(
        name,
        "overcomplete",
        tensors,
        keywords=SITE | {"normalize": normalize, "activation": activation} | keywords,
    )(overcomplete)


BATCH_NORM = {
    f"{BLOCK}.1.{part}": torch.from_numpy(value)
    for part, value in (
        ("weight", THETA),
        ("bias", B_MAG),
        ("running_mean", B_GATE),
        ("running_var", np.abs(R_MAG) + 0.2),
    )
}
BATCH_NORM[f"{BLOCK}.1.num_batches_tracked"] = torch.tensor(7)
overcomplete_case(
    "overcomplete, jump thresholds in logarithms",
    "l2",
    "jumprelu",
    {"thresholds": torch.from_numpy(np.log(THETA))},
)
overcomplete_case("overcomplete, rows as they are", "identity", "topk", k=K)
overcomplete_case("overcomplete, largest row of length 1", "max_l2", "relu")
overcomplete_case("overcomplete, absolute sums", "l1", "batchtopk", threshold=0.9)
overcomplete_case("overcomplete, largest absolute sum", "max_l1", "relu")
overcomplete_case("overcomplete, mlp_bn_1", "l2", "topk", BATCH_NORM, k=K)
CASES["overcomplete, mlp_bn_1"].buffers = (f"{BLOCK}.1.num_batches_tracked",)
