"""Models: one wrapper round every CLIP that open_clip can build, wherever its weights come from.

Owns preprocessing, tokens and embeddings. Weights are found and read in
weights.py, image towers in towers.py; hooks are the business of sites.py.
Start at `load_model`.
"""

import copy
import functools
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn

from clipattr.errors import DataError, ModelError
from clipattr.images.decoding import PictureError, to_picture
from clipattr.models.modules import described, device_named, template_texts, tokenizer_of, unwrapped_clip
from clipattr.models.towers import Tower, read_tower
from clipattr.models.weights import PAPER_VARIANTS, bundled_models, find_weights, hash_weights
from clipattr.storage.files import digest

TEXT_BATCH = 256
# What a picture may keep its rotation or a transparent colour in; without them an RGB picture is ready.
TURNING = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "transparency"})


class Model:
    """A CLIP in eval mode with its parameters' gradients off, its preprocessing and its tokenizer.

    Built by `load_model`. Embeddings come out at unit length. A graph is recorded only where grad mode is on
    and something upstream asks for it: the pixels, or a tensor put in by `replace`.

    Attributes:
        reference: the string that loads this model again; "custom" for a module that the caller built.
        clip: the open_clip module. visual: its image tower.
        preprocess: PIL picture to (3, H, W) tensor. preprocess_id: the same as a stable string, for
        manifests. device, dtype: where and how the weights are held.
    """

    def __init__(
        self,
        clip: nn.Module,
        reference: str,
        *,
        make_tokenizer: Callable[[], Any],
        preprocess: Callable[[Image.Image], Tensor] | None = None,
        weights_hash: str | None = None,
    ):
        self.clip = clip.eval().requires_grad_(False)
        if hasattr(clip, "set_grad_checkpointing"):
            clip.set_grad_checkpointing(False)  # type: ignore[operator]  # it would run blocks twice, and hooks with them
        self.reference = reference
        self._tower: Tower | None = None
        self._make_tokenizer = make_tokenizer
        if preprocess is None:
            config = _preprocess_config(clip)
            self.preprocess = image_transform_v2(PreprocessCfg(**config), is_train=False)
            self.preprocess_id = json.dumps(config, sort_keys=True, separators=(",", ":"))
        else:
            self.preprocess = preprocess
            self.preprocess_id = f"custom:{digest(described(preprocess), by='sha256')}"
        if weights_hash is not None:
            self.weights_hash = weights_hash

    def __getstate__(self) -> dict[str, Any]:
        """What another process is sent: all but what is read again from the module when first asked for."""
        self.weights_hash  # noqa: B018  computed here, where casts have not lost digits
        kept = {name: value for name, value in self.__dict__.items() if name != "tokenizer"}
        return {**kept, "_tower": None}

    def __repr__(self) -> str:
        return f"Model({self.reference!r}, weights {self.weights_hash}, {self.device}, {self.dtype})"

    @cached_property
    def weights_hash(self) -> str:
        """16 hex digits over the names, types, shapes and bytes of the weights.

        Floating point weights count as float32, so that the same weights kept as float16 on disk, loaded as
        float32 and saved again keep their hash. Hashed before any cast that `load_model` was asked for.
        """
        return hash_weights(self.clip)

    # what the modules say about themselves

    @property
    def visual(self) -> nn.Module:
        return self.clip.visual  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.clip.parameters()).dtype

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of what the image tower takes."""
        size: Any = self.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @cached_property
    def embed_dim(self) -> int:
        """Length of the embeddings that pictures and texts share."""
        if isinstance(self.visual, VisionTransformer) and self.visual.proj is not None:
            return self.visual.proj.shape[1]
        blank = torch.zeros(1, 3, *self.image_size)
        with torch.no_grad():
            return self.encode_image(blank).shape[1]

    @property
    def context_length(self) -> int:
        """How many tokens the text tower takes, the begin and end marks included."""
        return int(getattr(self.clip, "context_length", None) or self.clip.text.context_length)  # type: ignore

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax: the inverse temperature, exponentiated."""
        return float(self.clip.logit_scale.exp().mean())  # type: ignore[operator, union-attr]

    # the image tower, for towers whose blocks can be addressed

    @property
    def image_tower(self) -> Tower:
        """The image tower as sites address it; read again whenever the module is another one.

        Raises:
            SiteError: it is of a kind without sites; pictures and texts can still be encoded.
        """
        if self._tower is None or self._tower.visual is not self.visual:
            self._tower = read_tower(self.visual, self.reference)
        return self._tower

    @property
    def image_width(self) -> int:
        """Width of the image tower's residual stream."""
        return self.image_tower.width

    @property
    def image_blocks(self) -> int:
        """How many residual blocks the image tower has."""
        return len(self.image_blocks_modules)

    @property
    def image_blocks_modules(self) -> list[nn.Module]:
        """The residual blocks of the image tower, first to last."""
        return self.image_tower.blocks

    @property
    def image_tokens(self) -> int:
        """How many tokens each block sees: those that come first (a class token, registers), one per patch."""
        return self.image_tower.tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches; patch tokens run row by row."""
        return self.image_tower.grid

    @property
    def ln_post(self) -> nn.LayerNorm | None:
        """The LayerNorm between the last block and the projection, None where there is none or where pooling by
        attention comes between."""
        tower = self.visual
        own = isinstance(tower, VisionTransformer) and tower.attn_pool is None
        return tower.ln_post if own and isinstance(tower.ln_post, nn.LayerNorm) else None

    @property
    def image_projection(self) -> Tensor | None:
        """(width, embed): maps the normalised class token to the embedding; None means there is no such
        map."""
        return self.visual.proj if isinstance(self.visual, VisionTransformer) else None

    @property
    def tail_is_closed_form(self) -> bool:
        """Whether `image.-1.cls` is followed by nothing but LayerNorm, a linear projection, and normalising.

        LayerNorm works on each token alone, so it makes no difference whether it comes before or after
        pooling.
        """
        norm = self.ln_post
        affine = norm is not None and norm.weight is not None and norm.bias is not None
        return affine and isinstance(self.visual, VisionTransformer) and self.visual.pool_type == "tok"

    # encoding

    @cached_property
    def tokenizer(self) -> Any:
        """Texts to (n, context_length) token ids; read when the first text is encoded."""
        return self._make_tokenizer()

    def prepare(self, picture: Image.Image | np.ndarray | str | Path) -> Tensor:
        """Turn one picture into the tensor that the image tower takes.

        Args:
            picture: a PIL picture, an array (see `clipattr.images.decoding.read_picture`), or the path of a file. It
                is read as in a collection: turned upright, 16-bit greys scaled, transparent pixels laid on white.

        Returns:
            (3, H, W), on the CPU.

        Raises:
            DataError: the picture cannot be read; the message says why.
        """
        if isinstance(picture, Image.Image) and picture.mode == "RGB" and not TURNING & picture.info.keys():
            return self.preprocess(picture)
        try:
            return self.preprocess(to_picture(picture))
        except PictureError as error:
            told = f"{picture}: " if isinstance(picture, (str, Path)) else ""
            raise DataError(f"{told}not a readable picture ({error}).") from error

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embed pictures.

        Args:
            pixels: (batch, 3, H, W), prepared by `prepare`; moved to the model's device and dtype.

        Returns:
            (batch, embed), unit length, at least float32.

        Raises:
            ModelError: the tensor has another shape.
        """
        height, width = self.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, height, width):
            raise ModelError(
                f"{self.reference} takes pixels of shape (batch, 3, {height}, {width}); got "
                f"{tuple(pixels.shape)}. Stack what model.prepare(picture) returns."
            )
        return self.unit(self.clip.encode_image(pixels.to(self.device, self.dtype)))  # type: ignore[operator]

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Embed prompts, each put into every template.

        Args:
            prompts: n texts (a single string counts as one).
            templates: texts with `{}` where the prompt goes, or functions that put it there. With several, the unit
                embeddings are averaged and brought back to unit length.

        Returns:
            (n, embed), unit length, at least float32.

        Raises:
            ModelError: a template lacks `{}`, something is not a text, or no tokenizer is known.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        templates = template_texts(templates)
        for text in prompts:
            if not isinstance(text, str):
                raise ModelError(f"Prompts and templates are strings; got {text!r} ({type(text).__name__}).")
        if not templates or any("{}" not in template for template in templates):
            raise ModelError(f"Every template needs {{}} where the prompt goes; got {templates}.")
        if not prompts:
            return torch.zeros(0, self.embed_dim, device=self.device)
        texts = [template.replace("{}", prompt) for prompt in prompts for template in templates]
        tokens = self.tokenizer(texts, context_length=self.context_length)
        self._warn_of_cut_texts(texts, tokens)
        units = torch.cat(
            [self.unit(self.clip.encode_text(part.to(self.device))) for part in tokens.split(TEXT_BATCH)]  # type: ignore
        )
        if len(templates) == 1:
            return units
        return F.normalize(units.reshape(len(prompts), len(templates), -1).mean(1), dim=-1)

    def unit(self, features: Any) -> Tensor:
        """What a tower returns, (batch, embed), at unit length and in at least float32."""
        if isinstance(features, tuple):  # towers with output_tokens return (pooled, tokens)
            features = features[0]
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        return F.normalize(features, dim=-1)

    def _warn_of_cut_texts(self, texts: list[str], tokens: Tensor) -> None:
        """Tokenizers cut long texts in silence; a label that lost its last words is worth a warning."""
        if not isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            return
        full = (tokens[:, -1] != 0).nonzero().flatten().tolist()
        cut = [texts[i] for i in full if len(self.tokenizer.encode(texts[i])) + 2 > self.context_length]
        if cut:
            warnings.warn(
                f"{len(cut)} text(s) are longer than the {self.context_length} tokens that {self.reference} "
                f"takes and were cut, e.g. {cut[0][:80]!r}.",
                stacklevel=3,
            )


def load_model(
    name: str | nn.Module | Model,
    pretrained: str | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Callable | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    like: str | None = None,
) -> Model:
    """Load a CLIP with its weights. Without weights there is no model: nothing is ever left at random.

    Args:
        name: "NAME:PRETRAINED", or NAME with `pretrained`, as in open_clip ("ViT-B-32:openai");
            "local-dir:PATH" for a folder in open_clip's format; "hf-hub:ORG/REPO"; the name of a bundled
            model; or an open_clip module, which is put in eval mode with gradients off and otherwise left as
            it is. A `Model` comes back unchanged.
        pretrained: an open_clip tag, or a file with weights for NAME: safetensors or a torch checkpoint, also of a
            compiled, wrapped or whole module. Its activation and preprocessing are those of the tag that it comes
            from (by hash, cache, name, or what the checkpoint says).
        device: default: the GPU if torch sees one, else the CPU; a module stays where it is. "gpu" is "cuda".
        dtype: default: float32; a module keeps its own.
        tokenizer: for modules only: texts, context_length= to (n, context_length) ids, where open_clip's
            default tokenizer does not fit.
        preprocess: for modules only: PIL picture to (3, H, W), where the module does not say itself.
        like: for files only: the tag of NAME whose activation and preprocessing the weights were trained with, or
            "quickgelu" or "gelu"; needed where nothing else tells. "NAME:FILE@TAG" says the same.

    Raises:
        ModelError: unknown name or tag (with the nearest ones), weights missing, unreadable, unsafe or not
            fitting, a file whose activation is not known, or no such device.
    """
    if isinstance(name, (Model, nn.Module)):
        if pretrained is not None:
            raise ModelError(f"pretrained={pretrained!r} was given with a loaded model; pass a name instead.")
        if like is not None:
            raise ModelError(f"like={like!r} goes with a file of weights, not with a loaded model.")
        if isinstance(name, Model):
            return _placed(name, device, dtype)
        clip = unwrapped_clip(name)
        make_tokenizer = functools.partial(tokenizer_of, clip, tokenizer)
        made = Model(clip, "custom", make_tokenizer=make_tokenizer, preprocess=preprocess)
        return _placed(made, device, dtype)
    if tokenizer is not None or preprocess is not None:
        raise ModelError("tokenizer= and preprocess= go with a module; a named model brings its own.")
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if isinstance(pretrained, os.PathLike):
        pretrained = os.fspath(pretrained)
    if not isinstance(name, str):
        raise ModelError(f"A model is a string, an open_clip module or a Model; got {type(name).__name__}.")
    found = find_weights(name, pretrained, like)
    model = Model(found.clip, found.reference, make_tokenizer=found.make_tokenizer)
    if device is None and torch.cuda.is_available():
        device = "cuda"
    return _placed(model, device, dtype)


def list_models() -> pd.DataFrame:
    """All models that can be loaded by name, one row each.

    Returns:
        Columns `name`, `pretrained` (empty for bundled ones) and `kind`: "bundled" models come with the
        package, "paper" are the eight variants of arXiv:2505.20229, "open_clip" the rest.
    """
    rows = [(name, "", "bundled") for name in sorted(bundled_models())]
    rows += [(*variant, "paper") for variant in PAPER_VARIANTS]
    others = [pair for pair in open_clip.list_pretrained() if tuple(pair) not in PAPER_VARIANTS]
    rows += [(*pair, "open_clip") for pair in others]
    return pd.DataFrame(rows, columns=["name", "pretrained", "kind"])


def _placed(model: Model, device: str | torch.device | None, dtype: torch.dtype | None) -> Model:
    """The model on that device in that dtype: itself if nothing changes, else a copy, so that no caller's
    model moves."""
    device, dtype = device_named(device or model.device), dtype or model.dtype
    there = device.type == model.device.type and device.index in (None, model.device.index)
    if there and dtype == model.dtype:
        return model
    if not dtype.is_floating_point:
        raise ModelError(f"A model is held in a floating point dtype such as torch.float32; got {dtype}.")
    moved = copy.copy(model)
    moved.weights_hash = model.weights_hash  # hashed before the cast loses digits
    try:
        moved.clip = copy.deepcopy(model.clip).to(device, dtype)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ModelError(f"{model.reference} could not be put on {device}: {error}") from error
    return moved


def _preprocess_config(clip: nn.Module) -> dict[str, Any]:
    """Size, mean, std and resizing that the tower asks for, all of them spelt out."""
    config = merge_preprocess_dict(PreprocessCfg(), open_clip.get_model_preprocess_cfg(clip))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
