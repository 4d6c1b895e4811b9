"""Models of transformers: CLIP, SigLIP, AltCLIP and others from the Hugging Face hub or a folder.

Owns finding and reading them, and the adapter to the interface of an open_clip module: `visual`, `encode_image`,
`encode_text`, `logit_scale`. Pictures and texts use the model's own processor and tokenizer. Code that comes with
weights is never run. Needs the extra `hf`. Start at `find_transformers`.
"""

import functools
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipattr.errors import ModelError
from clipattr.models.surroundings import usual_surroundings

PREFIX = "hf:"
EXTRA = "pip install 'clipattr[hf]'"
# Types that were trained with texts padded to the full length.
PADDED = ("siglip", "siglip2")
# Upper limits, well above every published model; they bound the memory that a hostile configuration can request.
LARGEST = {
    "hidden_size": 16_384, "intermediate_size": 65_536, "num_hidden_layers": 256, "num_attention_heads": 1_024,
    "image_size": 4_096, "patch_size": 1_024, "num_patches": 65_536, "vocab_size": 2_000_000, "projection_dim": 16_384,
    "project_dim": 16_384, "max_position_embeddings": 65_536,
}  # fmt: skip


def transformers_or_error(name: str) -> Any:
    """The library transformers; ModelError with the extra to install where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{name} needs the library transformers, which is not installed: {EXTRA}."
        ) from error
    return transformers


def is_transformers(module: nn.Module) -> bool:
    """Whether a module is one of transformers' two-tower models."""
    return all(hasattr(module, part) for part in ("get_image_features", "get_text_features", "config"))


def find_transformers(
    name: str,
) -> tuple["TransformersClip", str, Callable[[], Any], Callable[[Image.Image], Tensor]]:
    """Read a model by its hub name or folder.

    Args:
        name: "ORG/NAME" on the hub, or the path of a folder with config.json.

    Returns:
        The adapted module in float32, the string that loads it again, a function that makes its tokenizer, and its
        preprocessing.

    Raises:
        ModelError: the library or the model is missing, its type has no text and image towers, weights are incomplete,
            or it asks to run its own code.
    """
    library = transformers_or_error(f"{PREFIX}{name}")
    folder = Path(name).expanduser()
    source = str(folder.resolve()) if folder.is_dir() else name
    reference = f"{PREFIX}{source}"
    config = _config(library, source, reference)
    try:
        with torch.random.fork_rng(devices=[]), usual_surroundings():
            module, told = library.AutoModel.from_pretrained(
                source, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # a hub, a proxy, a disk or a foreign file may raise any class
        raise ModelError(f"{reference}: its weights could not be read ({_first_line(error)}).") from error
    lost = [*told.get("missing_keys", ()), *(str(key) for key in told.get("mismatched_keys", ()))]
    if lost:
        raise ModelError(
            f"{reference}: its weights are incomplete: {len(lost)} tensors are missing or of another shape, e.g. "
            f"{sorted(lost)[0]!r}. They would keep random values."
        )
    if not is_transformers(module):
        raise ModelError(
            f"{reference} is a {type(module).__name__}, which does not embed pictures and texts into one space. "
            "CLIPModel, SiglipModel, Siglip2Model, AltCLIPModel and the like do."
        )
    try:
        processor = library.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{reference}: its image processor could not be read ({_first_line(error)}). The folder needs "
            "preprocessor_config.json."
        ) from error
    pixels = Pixels(processor)
    clip = TransformersClip(module, pixels)

    make_tokenizer = functools.partial(_tokenizer, source, reference, clip.model_type)
    return clip, reference, make_tokenizer, pixels


def _tokenizer(source: str, reference: str, model_type: str) -> "Tokens":
    library = transformers_or_error(reference)
    try:
        held = library.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a hub, a proxy or a broken file may raise any class
        raise ModelError(f"{reference}: its tokenizer could not be loaded ({_first_line(error)}).") from error
    return Tokens(held, model_type)


def adapt(
    module: nn.Module, tokenizer: Any, preprocess: Any
) -> tuple["TransformersClip", Callable[[], Any], Callable[[Image.Image], Tensor]]:
    """Adapt a loaded module of transformers.

    Args:
        tokenizer: of transformers, or a function from texts to ids as `load_model` takes it; None where `preprocess`
            contains one.
        preprocess: a processor or image processor of transformers, or PIL picture to tensor.

    Raises:
        ModelError: no preprocessing was given.
    """
    if preprocess is None:
        raise ModelError(
            f"A loaded {type(module).__name__} does not state how pictures are prepared: pass preprocess= its "
            f"processor, e.g. AutoProcessor.from_pretrained(NAME), or load it by name with load_model('{PREFIX}NAME')."
        )
    tokenizer = tokenizer or getattr(preprocess, "tokenizer", None)
    images = getattr(preprocess, "image_processor", preprocess)
    pixels = Pixels(images) if hasattr(images, "preprocess") else images
    clip = TransformersClip(module, pixels)
    return (
        clip,
        functools.partial(_given_tokenizer, tokenizer, clip.model_type, type(module).__name__),
        pixels,
    )


def _given_tokenizer(tokenizer: Any, model_type: str, kind: str) -> Any:
    if tokenizer is None:
        raise ModelError(f"{kind} was loaded without tokenizer: pass load_model(…, tokenizer=…).")
    return Tokens(tokenizer, model_type) if hasattr(tokenizer, "pad_token_id") else tokenizer


class Pixels:
    """From a PIL picture to one tensor, by an image processor of transformers.

    Pictures of variable resolution (SigLIP 2 NaFlex) become (1, patches, numbers + 3): the pixels of each patch; the
    last three columns are the mask and the rows and columns of the grid.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, picture: Image.Image) -> Tensor:
        made = self.processor(images=picture, return_tensors="pt")
        pixels = made["pixel_values"][0]
        if "spatial_shapes" not in made:
            return pixels
        told = torch.cat(
            [made["pixel_attention_mask"][0][:, None], made["spatial_shapes"].expand(len(pixels), 2)], 1
        )
        return torch.cat([pixels, told.to(pixels)], 1)[None]

    def __repr__(self) -> str:
        settings = self.processor.to_dict() if hasattr(self.processor, "to_dict") else {}
        return f"{type(self.processor).__name__} {json.dumps(settings, sort_keys=True, default=str)}"


class Tokens:
    """From texts to token ids (n, length), or ids and attention mask (n, 2, length) where the tokenizer has one."""

    def __init__(self, tokenizer: Any, model_type: str) -> None:
        self.tokenizer, self.model_type = tokenizer, model_type

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        texts = list(texts)
        padding = "max_length" if self.model_type in PADDED else True
        made = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=context_length, return_tensors="pt"
        )
        ids = made["input_ids"]
        whole = self.tokenizer(texts)["input_ids"]
        cut = [text for text, tokens in zip(texts, whole, strict=True) if len(tokens) > context_length]
        if cut:
            warnings.warn(
                f"{len(cut)} text(s) are longer than the {context_length} tokens that the model takes and were cut, "
                f"e.g. {cut[0][:80]!r}.",
                stacklevel=3,
            )
        return torch.stack([ids, made["attention_mask"]], 1) if "attention_mask" in made else ids


class TransformersClip(nn.Module):
    """A model of transformers with the interface of an open_clip module."""

    def __init__(self, module: nn.Module, pixels: Callable[[Image.Image], Tensor]) -> None:
        super().__init__()
        config: Any = module.config
        self.model_type = str(config.model_type)
        # The processor may crop to another size than the configuration states.
        self.pixel_shape = tuple(pixels(Image.new("RGB", (48, 64))).shape)
        text = config.text_config
        self.context_length = 77 if self.model_type == "altclip" else int(text.max_position_embeddings)
        if self.model_type in ("chinese_clip",):
            self.context_length = min(self.context_length, 52)
        try:
            self.visual = TransformersTower(module, self.pixel_shape)
        except AttributeError as error:  # FlavaModel, AlignModel: other parts under other names
            raise ModelError(
                f"{type(module).__name__} is not built like CLIP or SigLIP, and no reader here knows it ({error}). "
                "CLIPModel, MetaClip2Model, SiglipModel, Siglip2Model, AltCLIPModel and the like are read."
            ) from error
        self.embed_dim = self.visual.embed_dim

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the logit scale; 0 for models without one."""
        held = getattr(self.visual.model, "logit_scale", None)
        return torch.zeros(()) if held is None else held

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Features of pictures, (batch, embed), not normalised."""
        return self.visual(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features of texts, (n, embed), not normalised, from the output of `Tokens`."""
        model: Any = self.visual.model
        if tokens.ndim == 3:
            return _features(model.get_text_features(input_ids=tokens[:, 0], attention_mask=tokens[:, 1]))
        return _features(model.get_text_features(input_ids=tokens))


class TransformersTower(nn.Module):
    """The image tower of a model of transformers. It shares the module of the whole model.

    Towers with one stream of tokens also have the attributes that `traced.read_described` reads.
    """

    def __init__(self, module: nn.Module, pixel_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model = module
        model: Any = module
        config, vision = model.config, model.vision_model
        self.kind = f"{type(vision).__name__} of transformers"
        self.pixel_shape = pixel_shape
        self.image_size = (pixel_shape[-2], pixel_shape[-1])
        projection = getattr(model, "visual_projection", None)
        hidden = config.vision_config.hidden_size
        self.embed_dim = hidden if projection is None else int(self.last_matrix.shape[0])
        if pixel_shape[0] == 3 and hasattr(getattr(vision, "encoder", None), "layers"):
            self._describe(vision, projection, config.vision_config)

    def _describe(self, vision: Any, projection: Any, config: Any) -> None:
        side = config.patch_size
        self.layers = tuple(vision.encoder.layers)
        self.grid = (self.image_size[0] // side, self.image_size[1] // side)
        attends = hasattr(vision, "head")
        self.prefix = 0 if attends else 1
        self.chain = () if attends else (vision.post_layernorm, projection)

    def finish(self, stream: Tensor) -> Tensor:
        """Features from the stream after the last block, (batch, tokens, width)."""
        vision: Any = self.model.vision_model
        if hasattr(vision, "head"):
            return vision.head(vision.post_layernorm(stream))
        pooled = vision.post_layernorm(stream[:, 0])
        projection: Any = getattr(self.model, "visual_projection", None)
        return pooled if projection is None else projection(pooled)

    @property
    def last_matrix(self) -> Tensor:
        """The last matrix before the embedding; a projection may have several (GroupViT)."""
        model: Any = self.model
        last = getattr(model, "visual_projection", None) or model.vision_model
        return [part for part in last.parameters() if part.ndim == 2][-1]

    def forward(self, pixels: Tensor) -> Tensor:
        model: Any = self.model
        if self.pixel_shape[0] == 3:
            try:
                return _features(model.get_image_features(pixel_values=pixels))
            except ValueError as error:  # the processor of another model
                raise ModelError(
                    f"{type(model).__name__} does not take the shape {self.pixel_shape} that its processor makes: "
                    f"{_first_line(error)} Use the processor that belongs to the model."
                ) from error
        packed, told = pixels[:, 0, :, :-3], pixels[:, 0, :, -3:]
        return _features(
            model.get_image_features(
                pixel_values=packed,
                pixel_attention_mask=told[..., 0].int(),
                spatial_shapes=told[:, 0, 1:].long(),
            )
        )


def _features(found: Any) -> Tensor:
    """The pooled features of a result, in which newer versions of the library also return tokens."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _config(library: Any, source: str, reference: str) -> Any:
    try:
        written, _ = library.PretrainedConfig.get_config_dict(source)
    except Exception as error:
        raise ModelError(
            f"{reference}: config.json could not be read ({_first_line(error)}). Check the name and the connection; "
            f"offline, copy the repository and load {PREFIX}PATH."
        ) from error
    if "auto_map" in written:
        raise ModelError(f"{reference} asks to run code that comes with its weights; refused.")
    for part in (written, written.get("vision_config") or {}, written.get("text_config") or {}):
        for key, largest in LARGEST.items():
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= largest:
                raise ModelError(
                    f"{reference}: config.json: {key} must lie between 0 and {largest:,}; got {value!r:.80}."
                )
    try:
        return library.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{reference}: config.json describes no known model ({_first_line(error)})."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
