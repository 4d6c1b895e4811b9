"""Dictionaries: what splits an activation into weighted directions, x = sum_j a_j v_j + b + error.

Owns the shared core (encode, decode, error, save, load) and the list of kinds; each kind is a small module of its
own that says which pre-activations become codes. Ignores how dictionaries are trained and where activations come
from. Start at `Dictionary`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.kernels import bag_sum, chunk_rows, matmul_dtype
from clipattr.errors import DictionaryError
from clipattr.storage.documents import discard, read_json, schema_complaint, sweep

SCHEMA = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "sae.safetensors"
CARD_FILE = "card.json"  # beside them where the dictionary was judged after it was saved
ROW_NORMS = (None, "layer_norm", "length")
ROW_NORM_EPS = 1e-5

KINDS: dict[str, type[Dictionary]] = {}


def register_kind(cls: type[Dictionary]) -> type[Dictionary]:
    """Class decorator: makes a kind loadable under its `kind` name."""
    KINDS[cls.kind] = cls
    return cls


class Dictionary:
    """Directions, a bias, and the rule that turns an activation into sparse codes.

    Codes of a row x: pre = (x - pre_bias) @ encoder.T + encoder_bias; the kind's `select` picks entries of pre;
    a soft cap c (if any) turns them into c tanh(z / c); `gain` (if any) multiplies them, latent by latent, which
    is how decoder rows that were not of unit length in a file keep their output.
    With `row_norm`, every x is first normalised by itself; codes are scaled back to the activations' units and carry
    the row's mean and deviation for `decode`.

    Args:
        decoder: (n_latents, width); rows are scaled to unit length here, their lengths move into `gain`.
        bias: (width,), the b of x = sum a v + b + error (with `row_norm`: deviation * bias + mean).
        encoder: (n_latents, width), one row per latent.
        encoder_bias: (n_latents,), zero if None.
        pre_bias: (width,), subtracted before encoding; zero if None.
        gain: (n_latents,), or None for ones.
        softcap: c above, or None.
        row_norm: None, "layer_norm" (mean 0, deviation 1: unbiased, plus 1e-5) or "length" (length sqrt(width)).
        site: where the activations were read, e.g. "image.-1.cls".
        model_hash: `Model.weights_hash` of the model they came from.
        info: anything JSON can hold about how the dictionary was made; not part of `hash`.

    Raises:
        DictionaryError: shapes that do not fit, or values that are not finite.
    """

    kind: ClassVar[str] = ""
    n_fixed: ClassVar[bool] = False  # whether codes are (batch, k)

    def __init__(
        self,
        *,
        decoder: Tensor,
        bias: Tensor | None = None,
        encoder: Tensor,
        encoder_bias: Tensor | None = None,
        pre_bias: Tensor | None = None,
        gain: Tensor | None = None,
        softcap: float | None = None,
        row_norm: str | None = None,
        site: str | None = None,
        model_hash: str | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        if decoder.ndim != 2 or 0 in decoder.shape:
            raise DictionaryError(
                f"The decoder must be (n_latents, width); got shape {tuple(decoder.shape)}."
            )
        _real("decoder", decoder)
        n_latents, width = decoder.shape
        zeros = decoder.new_zeros
        decoder, lengths = _unit_rows(decoder.detach().float())
        if lengths is not None:
            gain = lengths if gain is None else gain.detach().float() * lengths
        self.decoder = decoder
        self.bias = _fitting("bias", zeros(width) if bias is None else bias, (width,))
        self.encoder = _fitting("encoder", encoder, (n_latents, width))
        none = encoder_bias is None
        self.encoder_bias = _fitting("encoder_bias", zeros(n_latents) if none else encoder_bias, (n_latents,))
        self.pre_bias = _fitting("pre_bias", zeros(width) if pre_bias is None else pre_bias, (width,))
        self.gain = None if gain is None else _fitting("gain", gain, (n_latents,))
        _fitting("decoder", self.decoder, (n_latents, width))
        self.softcap = softcap
        if row_norm not in ROW_NORMS:
            raise DictionaryError(f"row_norm is one of {ROW_NORMS}; got {row_norm!r}.")
        self.row_norm = row_norm
        self.site = None if site is None else str(site)
        self.model_hash = model_hash
        self.info: dict[str, Any] = dict(info or {})
        self.card: dict[str, Any] | None = None
        self._encoder_16: Tensor | None = None
        self._hash: str | None = None

    # What a kind says of itself

    @property
    def k(self) -> int | None:
        """Active latents per row where that is fixed, else None."""
        return None

    def settings(self) -> dict[str, Any]:
        """The kind's own numbers, as constructor arguments that JSON can hold."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The kind's own tensors, as constructor arguments."""
        return {}

    def select(self, pre: Tensor) -> SparseCodes:
        """Pre-activations (rows, n_latents), float32 or bfloat16, to codes before soft cap and gain.

        A row's codes depend on that row alone.
        """
        raise DictionaryError(
            f"{type(self).__name__} does not say how it selects; load or make a concrete kind."
        )

    # The shared core

    @property
    def n_latents(self) -> int:
        return self.decoder.shape[0]

    @property
    def width(self) -> int:
        return self.decoder.shape[1]

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def hash(self) -> str:
        """16 hex digits over everything that decides codes and reconstructions."""
        if self._hash is None:
            self._hash = self._hashed(self._identity())
        return self._hash

    def _hashed(self, identity: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for name, tensor in sorted(self._all_tensors().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        size = f"{self.n_latents} latents, width {self.width}{k}"
        return f"<{self.kind} dictionary {self.hash}: {size}, site {self.site}>"

    def encode(self, acts: Tensor, *, precision: str = "float32") -> SparseCodes:
        """Codes of activations, in pieces small enough that memory does not grow with the batch.

        Args:
            acts: (batch, width); token activations go in as `acts.flatten(0, 1)`.
            precision: dtype of the encoder product: "float32", "bfloat16" (values then carry a relative error of
                about 0.4 %), or "auto" for the faster one.

        Raises:
            DictionaryError: another width or dtype, or NaN or infinite values (the first such row is named).
        """
        acts = self._checked(acts).float()
        dtype = matmul_dtype(self.device, precision)
        rows = chunk_rows(self.n_latents, dtype.itemsize)
        if len(acts) == 0:
            return self._encode_rows(acts, dtype)
        return SparseCodes.cat([self._encode_rows(part, dtype) for part in acts.split(rows)])

    def preactivations(self, acts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(batch, n_latents), what `select` sees. Dense: for a few rows at a time."""
        centred = acts - self.pre_bias
        if dtype == torch.float32:
            return torch.addmm(self.encoder_bias, centred, self.encoder.T)
        if self._encoder_16 is None or self._encoder_16.dtype != dtype:
            self._encoder_16 = self.encoder.to(dtype)
        return torch.addmm(self.encoder_bias.to(dtype), centred.to(dtype), self._encoder_16.T)

    def decode(self, codes: SparseCodes) -> Tensor:
        """(batch, width): sum_j a_j v_j + b.

        Raises:
            DictionaryError: codes over another number of latents, or without the row statistics this kind needs.
        """
        if codes.n_latents != self.n_latents:
            raise DictionaryError(
                f"These codes count {codes.n_latents} latents, the dictionary {self.n_latents}: they come from "
                "another dictionary."
            )
        if codes.offsets is None:
            count = codes.indices.numel()
            step = max(codes.indices.shape[1], 1)
            offsets = torch.arange(0, count + 1, step, dtype=torch.int32, device=codes.device)
        else:
            offsets = codes.offsets.to(torch.int32)
        summed = bag_sum(self.decoder, codes.indices.reshape(-1), codes.values.reshape(-1), offsets)
        if not self.row_norm:
            return summed + self.bias
        if codes.row_stats is None:
            raise DictionaryError(
                "This dictionary normalises every row, so decoding needs the rows' mean and deviation: pass codes "
                "that come from its own encode()."
            )
        mean, deviation = codes.row_stats[:, :1], codes.row_stats[:, 1:]
        return summed + deviation * self.bias + mean

    def reconstruct(self, acts: Tensor) -> Tensor:
        """(batch, width): decode(encode(acts))."""
        return self.decode(self.encode(acts))

    def error(self, acts: Tensor, codes: SparseCodes) -> Tensor:
        """(batch, width): the error node, acts - decode(codes); adding it back restores acts."""
        return acts - self.decode(codes)

    def check(self, acts: Tensor) -> dict[str, float]:
        """Print the share of variance that each plausible reading of this dictionary leaves unexplained on some
        activations, its own reading first; returns them by name.

        Raises:
            DictionaryError: its own reading leaves more than there was (FVU > 1): wrong site, model or reading.
        """
        from clipattr.dictionaries.checkpoints.check import check_reading

        return check_reading(self, acts)

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        parts = {name: tensor.to(device) for name, tensor in self._all_tensors().items()}
        return self._rebuilt(parts)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `sae.safetensors` into a folder; complete or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "schema": SCHEMA,
            "format": "clipattr",
            **self._identity(),
            "n_latents": self.n_latents,
            "width": self.width,
            "site": self.site,
            "model_hash": self.model_hash,
            "hash": self._hashed(self._identity()),
            "info": self.info,
            "card": self.card,
        }
        text = json.dumps(config, indent=2, sort_keys=True)
        sweep(folder)
        weights, partial = folder / (WEIGHTS_FILE + ".partial"), folder / (CONFIG_FILE + ".partial")
        try:
            # Copies, so that no two tensors share storage (safetensors refuses that).
            save_file({name: t.detach().cpu().clone() for name, t in self._all_tensors().items()}, weights)
            partial.write_text(text + "\n")
            weights.replace(folder / WEIGHTS_FILE)
            partial.replace(folder / CONFIG_FILE)
        except (OSError, SafetensorError) as error:
            for file in (weights, partial):
                discard(file)
            raise DictionaryError(f"The dictionary in {folder} could not be written ({error}).") from error

    # Inside

    def _encode_rows(self, acts: Tensor, dtype: torch.dtype) -> SparseCodes:
        stats = None
        if self.row_norm:
            if self.row_norm == "layer_norm":
                mean = acts.mean(-1, keepdim=True)
                deviation = acts.std(-1, keepdim=True) + ROW_NORM_EPS
            else:
                mean = acts.new_zeros(len(acts), 1)
                deviation = (acts.norm(dim=-1, keepdim=True) / self.width**0.5).clamp_min(1e-12)
            acts = (acts - mean) / deviation
            stats = torch.cat([mean, deviation], -1)
        codes = self.select(self.preactivations(acts, dtype))
        values = codes.values
        if self.softcap is not None:
            values = self.softcap * torch.tanh(values / self.softcap)
        if self.gain is not None:
            values = values * self.gain[codes.indices.long()]
        if stats is not None:
            values = values * stats[:, 1][codes.row_of_entries()].view_as(values)
        return SparseCodes(codes.indices, values, self.n_latents, codes.offsets, stats)

    def _checked(self, acts: Tensor) -> Tensor:
        if not isinstance(acts, Tensor) or not acts.is_floating_point():
            raise DictionaryError(
                f"A dictionary takes a tensor of real floating point numbers; got {getattr(acts, 'dtype', 'none')} in "
                f"a {type(acts).__name__}. Convert arrays with torch.from_numpy, whole numbers with .float()."
            )
        if acts.ndim != 2 or acts.shape[1] != self.width:
            raise DictionaryError(
                f"This dictionary takes activations of shape (batch, {self.width}); got {tuple(acts.shape)}. "
                "Token activations go in flattened; another width means another site or model."
            )
        if not torch.isfinite(acts.sum()):
            bad = (~torch.isfinite(acts)).any(-1).nonzero().flatten()
            if len(bad):
                raise DictionaryError(
                    f"Activations hold NaN or infinite values in {len(bad)} of {len(acts)} rows, first in row "
                    f"{int(bad[0])}: check the model's dtype, or leave these inputs out."
                )
        return acts

    def _identity(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "settings": self.settings(),
            "softcap": self.softcap,
            "row_norm": self.row_norm,
        }

    def _all_tensors(self) -> dict[str, Tensor]:
        own = {
            "decoder": self.decoder,
            "bias": self.bias,
            "encoder": self.encoder,
            "encoder_bias": self.encoder_bias,
            "pre_bias": self.pre_bias,
            **self.tensors(),
        }
        return own if self.gain is None else {**own, "gain": self.gain}

    def _rebuilt(self, parts: dict[str, Tensor], **changes: Any) -> Any:
        options: dict[str, Any] = {
            **parts,
            **self.settings(),
            "softcap": self.softcap,
            "row_norm": self.row_norm,
            "site": self.site,
            "model_hash": self.model_hash,
            "info": self.info,
            **changes,
        }
        made = type(self)(**options)
        made.card = self.card
        return made


def load_dictionary(path: str | Path) -> Dictionary:
    """Open a dictionary that `Dictionary.save` wrote; files of other projects go through `load_sae`.

    Args:
        path: the folder, or one of the two files in it.

    Raises:
        DictionaryError: files missing, damaged, of a newer schema, or not matching their recorded hash.
    """
    folder = Path(path)
    if folder.name in (CONFIG_FILE, WEIGHTS_FILE):
        folder = folder.parent
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise DictionaryError(
            f"{folder} is not a clipattr dictionary: {' and '.join(missing)} missing. Files of other projects open "
            "with load_sae()."
        )
    try:
        config = read_json(folder / CONFIG_FILE)
        parts = load_file(folder / WEIGHTS_FILE)
        card = read_json(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else None
    except (OSError, ValueError, SafetensorError) as error:
        raise DictionaryError(f"The dictionary in {folder} is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("format") != "clipattr":
        raise DictionaryError(f"{folder / CONFIG_FILE} has no 'format': 'clipattr'; try load_sae() on it.")
    again = f"clipattr train STORE --out {folder} --latents N --k K"
    if told := schema_complaint(folder, config.get("schema", 0), SCHEMA, again, oldest=0):
        raise DictionaryError(told)
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise DictionaryError(
            f"{folder} holds a dictionary of kind {kind!r}; known kinds: {', '.join(sorted(KINDS))}."
        )
    try:
        made = KINDS[kind](
            **parts,
            **config["settings"],
            softcap=config["softcap"],
            # Until there were two ways to normalise, it was yes or no.
            row_norm={True: "layer_norm", False: None}.get(config["row_norm"], config["row_norm"]),
            site=config["site"],
            model_hash=config["model_hash"],
            info=config["info"],
        )
    except DictionaryError:
        raise
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError
    ) as error:  # fmt: skip
        raise DictionaryError(
            f"The dictionary in {folder} is incomplete or has unknown fields: {error}"
        ) from error
    made.card = config.get("card") or card
    made._hash = made._hashed(
        {**made._identity(), "row_norm": config["row_norm"]}
    )  # in the words it was written in
    if made._hash != config.get("hash"):
        raise DictionaryError(
            f"The weights in {folder} hash to {made.hash}, its config.json says {config.get('hash')}: the two files do "
            "not belong together, or one was edited."
        )
    return made


def _unit_rows(decoder: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows of unit length and what they were divided by (None where they had unit length, to 1e-4, already).

    Rows of length zero stay zero.
    """
    lengths = torch.linalg.vector_norm(decoder.double(), dim=1)
    if bool(((lengths - 1).abs() < 1e-4).all()):
        return decoder, None
    safe = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return (decoder.double() / safe[:, None]).float(), lengths.float()


def _real(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise DictionaryError(f"Dictionary field {name!r} must hold real numbers; got {tensor.dtype}.")


def _fitting(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    assert tensor is not None
    if tuple(tensor.shape) != shape:
        raise DictionaryError(
            f"Dictionary field {name!r} must have shape {shape} beside this decoder; got {tuple(tensor.shape)}."
        )
    _real(name, tensor)
    tensor = tensor.detach().float().contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise DictionaryError(f"Dictionary field {name!r} holds NaN or infinite values.")
    return tensor
