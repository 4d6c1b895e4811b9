"""Models: one wrapper for every CLIP of open_clip and transformers.

Owns preprocessing and embeddings. Weights are found and read in weights.py and huggingface.py, texts are embedded in
text.py, image towers are read in towers.py; hooks are in sites.py. Start at `load_model`.
"""

import copy
import functools
import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn

from clipattr.errors import DataError, ModelError, SiteError
from clipattr.images.decoding import PictureError, to_picture
from clipattr.models.forward import forward_facts
from clipattr.models.huggingface import adapt, is_transformers
from clipattr.models.modules import (
    described,
    device_named,
    dtype_named,
    frozen,
    preprocess_config,
    required_clip,
    tokenizer_of,
    unwrapped,
)
from clipattr.models.places import Site
from clipattr.models.surroundings import unaffected
from clipattr.models.tails import Tail
from clipattr.models.text import embed_texts, tokenized
from clipattr.models.text_tower import TextTower, read_text_tower
from clipattr.models.tower import Tower
from clipattr.models.towers import read_tower
from clipattr.models.weights import find_weights, hash_weights
from clipattr.storage.files import digest

# Metadata keys with a rotation or a transparent colour; an RGB picture without them needs no conversion.
TURNING = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "transparency"})


class Model:
    """A CLIP in eval mode without parameter gradients, with its preprocessing and tokenizer; see `load_model`.

    Embeddings have unit length. A graph is recorded where grad mode is on and pixels or a replaced tensor require it.

    Attributes:
        reference: the string that loads this model again; "custom" for a module that the caller built.
        clip: the open_clip module. visual: its image tower.
        preprocess: function from a PIL picture to a tensor (3, H, W).
        preprocess_id: the preprocessing as a stable string, for manifests.
        device, dtype: of the weights.

    >>> model = load_model("picture-world-a")
    >>> model.embed_dim, model.image_size, model.image_blocks
    (128, (64, 64), 6)
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
        self.clip = frozen(clip, reference)
        self.reference = reference
        self._tower: Tower | None = None
        self._text_tower: TextTower | None = None
        # Features of texts pass through this module, so that a hook can read or replace them for any tower.
        self.text_output = nn.Identity()
        self._make_tokenizer = make_tokenizer
        if preprocess is None:
            config = preprocess_config(clip)
            self.preprocess = image_transform_v2(PreprocessCfg(**config), is_train=False)
            self.preprocess_id = json.dumps(config, sort_keys=True, separators=(",", ":"))
        else:
            self.preprocess = preprocess
            self.preprocess_id = f"custom:{digest(described(preprocess), by='sha256')}"
        if weights_hash is not None:
            self.weights_hash = weights_hash

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, without cached values that are read from the module again on first use."""
        self.weights_hash  # noqa: B018  computed here, where casts have not lost digits
        kept = {name: value for name, value in self.__dict__.items() if name != "tokenizer"}
        return {**kept, "_tower": None, "_text_tower": None}

    def __repr__(self) -> str:
        return f"Model({self.reference!r}, weights {self.weights_hash}, {self.device}, {self.dtype})"

    @cached_property
    def weights_hash(self) -> str:
        """16 hex digits over names, types, shapes and bytes of the weights (as float32, before a cast)."""
        return hash_weights(self.clip)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What decides the embeddings and is not in the weights, as JSON values by name; see `forward_facts`."""
        return forward_facts(self)

    @property
    def visual(self) -> nn.Module:
        """The image tower's module."""
        return self.clip.visual  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.clip.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.clip.parameters()).dtype

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image tower's input in pixels."""
        size: Any = self.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Shape of one prepared picture: (3, height, width), except for towers that take packed patches."""
        return tuple(getattr(self.clip, "pixel_shape", None) or (3, *self.image_size))

    @cached_property
    def embed_dim(self) -> int:
        """Number of components of an embedding."""
        if isinstance(self.visual, VisionTransformer) and self.visual.proj is not None:
            return self.visual.proj.shape[1]
        if told := getattr(self.clip, "embed_dim", None):
            return int(told)
        blank = torch.zeros(1, 3, *self.image_size)
        with torch.no_grad():
            return self.encode_image(blank).shape[1]

    @property
    def context_length(self) -> int:
        """Number of tokens that the text tower takes, including begin and end tokens."""
        if isinstance(getattr(self.clip, "text", None), HFTextEncoder):
            # The tower states its number of positions, not the trained length, and some kinds have no positions.
            return int(getattr(self.tokenizer, "context_length", None) or DEFAULT_CONTEXT_LENGTH)
        return int(getattr(self.clip, "context_length", None) or self.clip.text.context_length)  # type: ignore

    @property
    def logit_scale(self) -> float:
        """Factor of cosines before a softmax: the inverse temperature."""
        return float(self.clip.logit_scale.exp().mean())  # type: ignore[operator, union-attr]

    # the image tower, for towers whose blocks can be addressed

    @property
    def image_tower(self) -> Tower:
        """The image tower as sites address it; SiteError for towers whose blocks are unknown, also in `grid` etc."""
        if self._tower is None or self._tower.visual is not self.visual:
            self._tower = read_tower(self.visual, self.reference)
        return self._tower

    @property
    def text_tower(self) -> TextTower:
        """The text tower as sites address it; SiteError for towers whose blocks are unknown (they can still encode)."""
        if self._text_tower is None or self._text_tower.clip is not self.clip:
            self._text_tower = read_text_tower(self)
        return self._text_tower

    @property
    def image_width(self) -> int:
        """Width of the image tower's residual stream."""
        return self.image_tower.width

    @property
    def image_blocks(self) -> int:
        """Number of residual blocks of the image tower."""
        return len(self.image_blocks_modules)

    @property
    def image_blocks_modules(self) -> list[nn.Module]:
        """The residual blocks of the image tower, first to last."""
        return self.image_tower.blocks

    @property
    def image_tokens(self) -> int:
        """Number of tokens per block: first tokens (class token, registers) and one per patch."""
        return self.image_tower.tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches; patch tokens are in row-major order."""
        return self.image_tower.grid

    @property
    def ln_post(self) -> nn.LayerNorm | None:
        """The LayerNorm between last block and projection; None without one or with attention pooling."""
        tower = self.visual
        own = isinstance(tower, VisionTransformer) and tower.attn_pool is None
        return tower.ln_post if own and isinstance(tower.ln_post, nn.LayerNorm) else None

    @property
    def image_projection(self) -> Tensor | None:
        """(width, embed) matrix from the normalised class token to the embedding; None without one."""
        return self.visual.proj if isinstance(self.visual, VisionTransformer) else None

    @property
    def tail_is_closed_form(self) -> bool:
        """Whether `image.-1.cls` has a closed-form tail; for other sites see `Site.tail`."""
        try:
            return self.tail("image.-1.cls") is not None
        except SiteError:
            return False

    def tail(self, site: str | Site) -> Tail | None:
        """The closed-form tail behind a site, None where there is none; see `Site.tail`."""
        return Site(site).tail(self)

    @cached_property
    def tokenizer(self) -> Any:
        """Function from texts to token ids (n, context_length), loaded when the first text is encoded."""
        return self._make_tokenizer()

    def prepare(self, picture: Image.Image | np.ndarray | str | Path) -> Tensor:
        """Preprocess one picture for the image tower.

        Args:
            picture: a PIL picture, an array (see `clipattr.images.decoding.read_picture`), or the path of a file. As in
                a collection, it is rotated upright, 16-bit greys are scaled, transparent pixels become white.

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
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != self.pixel_shape:
            raise ModelError(
                f"{self.reference} takes pixels of shape (batch, {', '.join(map(str, self.pixel_shape))}); got "
                f"{tuple(pixels.shape)}. Stack what model.prepare(picture) returns."
            )
        return self.unit(self.clip.encode_image(pixels.to(self.device, self.dtype)))  # type: ignore[operator]

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Embed prompts, each put into every template.

        Args:
            prompts: n texts (a single string counts as one).
            templates: texts with `{}` in place of the prompt, or functions from prompt to text. The unit embeddings of
                several templates are averaged and normalised again.

        Returns:
            (n, embed), unit length, at least float32.

        Raises:
            ModelError: a template without `{}`, a prompt that is not a text, or an unknown tokenizer.
        """
        return embed_texts(self, prompts, templates)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids of texts, (n, tokens); ids and attention mask (n, 2, tokens) where the text tower takes one."""
        return tokenized(self, list(texts))

    def text_features(self, tokens: Tensor) -> Tensor:
        """Features of texts before normalisation, (n, embed), from `tokens`."""
        features = self.clip.encode_text(tokens.to(self.device))  # type: ignore[operator]
        return self.text_output(features[0] if isinstance(features, tuple) else features)

    def knows(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> bool:
        """Whether `encode_text` can embed these texts; False only for a table of text embeddings that lacks one."""
        return True

    def unit(self, features: Any) -> Tensor:
        """Features (batch, embed) normalised to unit length, in at least float32."""
        if isinstance(features, tuple):  # towers with output_tokens return (pooled, tokens)
            features = features[0]
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        return F.normalize(features, dim=-1)


def load_model(
    name: str | nn.Module | Model,
    pretrained: str | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    tokenizer: Any = None,
    preprocess: Any = None,
    like: str | None = None,
) -> Model:
    """Load a CLIP with its weights. Missing weights are an error; nothing is initialised at random.

    Args:
        name: "NAME:PRETRAINED", or NAME with `pretrained`, as in open_clip ("ViT-B-32:openai");
            "local-dir:PATH" for a folder in open_clip's format; "hf-hub:ORG/REPO"; the name of a bundled
            model; "hf:ORG/NAME" or "hf:PATH" for a model of transformers (CLIP, SigLIP, AltCLIP, …; needs the extra
            `hf`); or an open_clip or transformers module, which is set to eval mode without gradients. A `Model` is
            returned unchanged.
        pretrained: an open_clip tag, or a file with weights for NAME: safetensors or a torch checkpoint, also of a
            compiled, wrapped or whole module. Its activation and preprocessing are those of the tag it comes from,
            which is found by hash, cache folder, name, or the checkpoint's own arguments.
        device: default the GPU if torch finds one, else the CPU; a module stays on its device. "gpu" is "cuda".
        dtype: default float32; a module keeps its own, one of mixed precision is cast to its widest.
        tokenizer: for modules only: a function of (texts, context_length=) that returns ids (n, context_length), or a
            tokenizer of transformers; default open_clip's.
        preprocess: for modules only: a function from a PIL picture to (3, H, W), or a processor of transformers;
            default the module's own.
        like: for files only: the tag of NAME with whose activation and preprocessing the weights were trained, or
            "quickgelu" or "gelu"; needed where it cannot be found. "NAME:FILE@TAG" is equivalent.

    Returns:
        A `Model`.

    Raises:
        ModelError: unknown name or tag (with similar ones), weights that are missing, unreadable, unsafe or do not fit,
            a file of unknown activation, or no such device.

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> model.encode_text(["kite", "bat"], templates=["a photo of a {}"]).shape
    torch.Size([2, 128])
    """
    if isinstance(name, (Model, nn.Module)):
        if pretrained is not None:
            raise ModelError(f"pretrained={pretrained!r} was given with a loaded model; pass a name instead.")
        if like is not None:
            raise ModelError(f"like={like!r} goes with a file of weights, not with a loaded model.")
        if isinstance(name, Model):
            return _placed(name, device, dtype)
        clip = unwrapped(name)
        if is_transformers(clip):
            adapted, making, pixels = adapt(clip, tokenizer, preprocess)
            return _placed(Model(adapted, "custom", make_tokenizer=making, preprocess=pixels), device, dtype)
        making = functools.partial(tokenizer_of, required_clip(clip), tokenizer)
        return _placed(Model(clip, "custom", make_tokenizer=making, preprocess=preprocess), device, dtype)
    if tokenizer is not None or preprocess is not None:
        raise ModelError("tokenizer= and preprocess= go with a module; a named model brings its own.")
    if not isinstance(name, (str, os.PathLike)):
        raise ModelError(
            f"A model is a string, a module of open_clip or transformers, or a Model; got {type(name).__name__}."
        )
    written = pretrained if pretrained is None else os.fspath(pretrained)
    found = find_weights(os.fspath(name).strip(), written, like)
    model = Model(
        found.clip, found.reference, make_tokenizer=found.make_tokenizer, preprocess=found.preprocess
    )
    return _placed(model, device or ("cuda" if torch.cuda.is_available() else None), dtype)


@unaffected
def _placed(model: Model, device: str | torch.device | None, dtype: torch.dtype | str | None) -> Model:
    """The model on a device in a dtype: the same object if nothing changes, else a copy; mixed precision ends."""
    dtypes = {value.dtype for value in model.clip.parameters() if value.is_floating_point()}
    dtype = dtype_named(dtype or functools.reduce(torch.promote_types, dtypes))
    device = device_named(device or model.device)
    there = device.type == model.device.type and device.index in (None, model.device.index)
    if there and dtypes == {dtype}:
        return model
    moved = copy.copy(model)
    moved.weights_hash = model.weights_hash  # hashed before the cast loses digits
    moved.text_output = nn.Identity()  # hooks on one model must not act in the other
    try:
        moved.clip = copy.deepcopy(model.clip).to(device, dtype)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ModelError(f"{model.reference} could not be put on {device}: {error}") from error
    return moved
