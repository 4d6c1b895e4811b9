"""Text-only models: a table of text embeddings in place of a model, for studies of vectors.

Owns the lookup of texts, and the errors for everything that needs a model. Ignores pictures. Start at
`TextEmbeddings.open`; a study stores its table in its folder.
"""

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipattr.errors import ModelError, SiteError
from clipattr.models.loading import Model
from clipattr.models.text_tower import TextTower
from clipattr.models.tower import EMBEDDING, Tower

REFERENCE = "text-embeddings"  # reference of a table in the study's own folder
FILE = "text-embeddings.safetensors"
LOGIT_SCALE = 100.0  # of published CLIPs; used for tables without one


class TextEmbeddings(Model):
    """A table of text embeddings with the interface of a `Model`; pictures are given as vectors.

    Args:
        words: the texts.
        vectors: (n, embed), one row per text, normalised or not.
        logit_scale: factor of cosines before a softmax.

    Raises:
        ModelError: another number of vectors than texts, a repeated text, or a vector that is zero or not finite.

    >>> model = TextEmbeddings(["kite", "bat"], np.eye(2, 3))
    >>> model.encode_text(["bat"]).tolist()
    [[0.0, 1.0, 0.0]]
    """

    def __init__(self, words: Sequence[str], vectors: Any, *, logit_scale: float = LOGIT_SCALE) -> None:
        table = torch.as_tensor(np.asarray(vectors, dtype=np.float32))
        self.words = [str(word) for word in words]
        if table.ndim != 2 or len(table) != len(self.words):
            raise ModelError(
                f"Text embeddings are one row per text: {len(self.words)} texts need shape ({len(self.words)}, embed); "
                f"got {tuple(table.shape)}."
            )
        wrong = (~torch.isfinite(table).all(1) | (table.norm(dim=1) == 0)).nonzero().flatten().tolist()
        if wrong:
            raise ModelError(
                f"The embeddings of {len(wrong)} of {len(self.words)} texts are zero or not finite, first that of "
                f"{self.words[wrong[0]]!r}. Encode these texts again, or leave them out."
            )
        self._row = {word: row for row, word in enumerate(self.words)}
        if len(self._row) != len(self.words):
            twice = next(word for word in self.words if self.words.count(word) > 1)
            raise ModelError(f"The text {twice!r} has more than one embedding; give each text once.")
        self._table = F.normalize(table, dim=-1)
        self._scale = float(logit_scale)
        digest = hashlib.sha256("\0".join(self.words).encode())
        digest.update(self._table.numpy().tobytes())
        self.reference, self.preprocess_id = REFERENCE, "none: vectors only"
        self.weights_hash = digest.hexdigest()[:16]
        self.facts: dict[str, Any] = {}
        self.clip = nn.Module()

    @classmethod
    def open(cls, source: Any) -> "TextEmbeddings":
        """Open a mapping of texts to vectors, a pair (texts, array), or a file.

        Args:
            source: mapping of texts to vectors (embed,), pair (n texts, array (n, embed)), or path of a .npz with
                `words` (texts) and one 2-D array, or of a .safetensors file from a study.

        Raises:
            ModelError: another type, an unreadable file, or texts and vectors that do not fit.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping):
            return cls(list(source), np.stack([np.asarray(vector, np.float32) for vector in source.values()]))
        if isinstance(source, tuple) and len(source) == 2:
            return cls(*source)
        if not isinstance(source, str | Path):
            raise ModelError(
                "Text embeddings are a mapping of texts to vectors, a pair (texts, array) or a file; got "
                f"{type(source).__name__}."
            )
        path = Path(source)
        try:
            if path.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(path, "np") as file:
                    told = file.metadata() or {}
                    return cls(
                        json.loads(told["words"]),
                        file.get_tensor("vectors"),
                        logit_scale=float(told["scale"]),
                    )
            with np.load(path, allow_pickle=False) as held:
                (vectors,) = (held[name] for name in held.files if held[name].ndim == 2)
                return cls(held["words"].tolist(), vectors)
        except ModelError:
            raise
        except Exception as error:  # a foreign file can be anything
            raise ModelError(
                f"{str(path)!r} holds no text embeddings ({type(error).__name__}: {error}): a .npz with words= (texts) "
                "and vectors= (n, embed) is expected."
            ) from error

    def save(self, path: Path) -> None:
        """Write the table to `path` as .safetensors, which `open` reads."""
        from safetensors.torch import save_file

        save_file(
            {"vectors": self._table}, path, {"words": json.dumps(self.words), "scale": repr(self._scale)}
        )

    def __repr__(self) -> str:
        return f"TextEmbeddings({len(self.words)} texts of {self.embed_dim} numbers)"

    @property
    def device(self) -> torch.device:
        """Device of the table."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the table."""
        return torch.float32

    @property
    def context_length(self) -> int:  # type: ignore[override]
        """Unlimited, as texts are looked up without a tokenizer."""
        return sys.maxsize

    @property
    def embed_dim(self) -> int:  # type: ignore[override]
        """Number of components of an embedding."""
        return self._table.shape[1]

    @property
    def logit_scale(self) -> float:
        """Factor of cosines before a softmax: the inverse temperature."""
        return self._scale

    @property
    def image_size(self) -> tuple[int, int]:
        """A placeholder, as no picture is decoded for this model."""
        return (1, 1)

    @property
    def image_tower(self) -> Tower:
        """Always a `SiteError`: a table of texts has no image tower."""
        raise SiteError(f"Of this model only text embeddings are known, no image tower. {EMBEDDING}.")

    @property
    def text_tower(self) -> TextTower:
        """Always a `SiteError`: a table of texts has no text tower."""
        raise SiteError(
            "Of this model only text embeddings are known, no text tower: text sites need a loaded model."
        )

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Refuse pixels (batch, 3, H, W) with a `ModelError`, as a table of texts has no image tower."""
        raise ModelError(
            "Of this model only text embeddings are known, so pictures cannot be encoded. Build the study with "
            "model=NAME to encode pictures, as occlusion, text insertion and new pictures need."
        )

    def prepare(self, picture: Any) -> Tensor:
        """Refuse to make pixels (3, H, W), with a `ModelError`, as a table of texts has no image tower."""
        return self.encode_image(torch.empty(0))

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Embeddings of prompts from the table, (n, embed), unit length.

        The empty text has the mean embedding where it is not in the table.

        Raises:
            ModelError: a text that is not in the table; the message names similar ones.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [
            self._looked_up(template.replace("{}", prompt)) for prompt in prompts for template in templates
        ]
        if not rows:
            return torch.zeros(0, self.embed_dim)
        found = torch.stack(rows).view(len(prompts), len(templates), -1)
        return F.normalize(found.mean(1), dim=-1)

    def knows(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> bool:
        """Whether all of these are in the table, in every template."""
        asked = [template.replace("{}", text) for text in texts for template in templates]
        return all(text in self._row or not text.strip() for text in asked)

    def _looked_up(self, text: str) -> Tensor:
        if text in self._row:
            return self._table[self._row[text]]
        if not text.strip():
            return F.normalize(self._table.mean(0), dim=0)
        close = difflib.get_close_matches(text, self.words, n=3)
        nearest = f" Nearest: {', '.join(close)}." if close else ""
        raise ModelError(
            f"The text {text[:80]!r} is not among the {len(self.words):,} texts whose embeddings are known.{nearest} "
            "Add its embedding to text_embeddings=, or build the study with model=NAME."
        )
