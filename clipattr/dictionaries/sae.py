"""Dictionaries: decompose an activation into weighted directions, x = sum_j a_j v_j + b + error.

Owns the core that all kinds share (encode, decode, error, save) and the registry of kinds. Each kind is a module of
its own that defines which pre-activations become codes. This module does not know how dictionaries are trained or how
activations are computed. Start at `Dictionary`; `load_dictionary` is in `saved.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from clipattr.dictionaries.codes import SparseCodes
from clipattr.dictionaries.kernels import bag_sum, chunk_rows, matmul_dtype
from clipattr.dictionaries.parameters import (
    ROW_NORMS,
    checked_acts,
    fitting,
    normalised_rows,
    real,
    unit_rows,
)
from clipattr.dictionaries.readings import check_reading
from clipattr.errors import DictionaryError
from clipattr.storage.files import save_tensors, sweep, tensors_digest, write_text
from clipattr.storage.paths import user_path

SCHEMA = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "sae.safetensors"
CARD_FILE = "card.json"  # quality card written after the dictionary was saved

KINDS: dict[str, type[Dictionary]] = {}


def register_kind(cls: type[Dictionary]) -> type[Dictionary]:
    """Class decorator that makes a kind loadable under the name in its `kind` attribute.

    >>> from clipattr.dictionaries.sae import KINDS
    >>> import clipattr.dictionaries
    >>> KINDS["topk"].__name__
    'TopK'
    """
    KINDS[cls.kind] = cls
    return cls


class Dictionary:
    """Directions, a bias, and the rule that turns an activation into sparse codes.

    A row x is encoded in four steps: pre = (x - pre_bias) @ encoder.T + encoder_bias; the kind's `select` keeps some
    entries of pre; a soft cap c, if there is one, replaces each value z by c tanh(z / c); `gain`, if there is one,
    multiplies each latent's value (it holds the lengths of decoder rows that were not unit vectors).
    With `row_norm`, each x is normalised by its own statistics first. Codes are then scaled back to the units of the
    activations, and carry the row's mean and deviation, which `decode` needs.

    A *transcoder* reads one site (`input_site`) and predicts another (`site`). `encode` takes activations of the input
    site, `decode` returns activations of the output site, and `skip` is an optional linear map from input to output.

    Args:
        decoder: (n_latents, width). Rows are scaled to unit length; their lengths are moved into `gain`.
        bias: (width,), the b of x = sum_j a_j v_j + b + error; zero if None.
        encoder: (n_latents, input_width), one row per latent; input_width is width except in transcoders.
        encoder_bias: (n_latents,), zero if None.
        pre_bias: (input_width,), subtracted before encoding; zero if None.
        gain: (n_latents,), or None for ones.
        softcap: c above, or None.
        row_norm: None, "layer_norm" (mean 0 and unbiased standard deviation 1, 1e-5 added to the deviation) or
            "length" (Euclidean length sqrt(input_width)).
        site: where the activations are read and replaced, e.g. "image.-1.cls"; None if unknown.
        input_site: for transcoders, the site that `encode` reads.
        skip: (width, input_width), for transcoders with a linear path beside the latents.
        model_hash: `Model.weights_hash` of the model that the activations come from.
        info: anything that JSON can hold about how the dictionary was made; not part of `hash`.

    Raises:
        DictionaryError: shapes that do not fit together, or values that are not finite real numbers.

    >>> import torch
    >>> from clipattr.dictionaries import TopK
    >>> made = TopK(k=1, decoder=torch.eye(2), encoder=torch.eye(2))
    >>> codes = made.encode(torch.tensor([[3.0, 1.0]]))
    >>> made.decode(codes).tolist(), made.error(torch.tensor([[3.0, 1.0]]), codes).tolist()
    ([[3.0, 0.0]], [[0.0, 1.0]])
    """

    kind: ClassVar[str] = ""
    n_fixed: ClassVar[bool] = False  # True where codes have shape (batch, k)

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
        input_site: str | None = None,
        skip: Tensor | None = None,
        model_hash: str | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        if decoder.ndim != 2 or 0 in decoder.shape:
            raise DictionaryError(f"The decoder must be (n_latents, width); got {tuple(decoder.shape)}.")
        real("decoder", decoder)
        n_latents, width = decoder.shape
        zeros = decoder.new_zeros
        decoder, lengths = unit_rows(decoder.detach().float())
        if lengths is not None:
            gain = lengths if gain is None else gain.detach().float() * lengths
        self.decoder = decoder
        self.bias = fitting("bias", zeros(width) if bias is None else bias, (width,))
        if encoder.ndim != 2:
            raise DictionaryError(f"The encoder must be (n_latents, width); got {tuple(encoder.shape)}.")
        inner = width if input_site is None else int(encoder.shape[1])
        self.encoder = fitting("encoder", encoder, (n_latents, inner))
        none = encoder_bias is None
        self.encoder_bias = fitting("encoder_bias", zeros(n_latents) if none else encoder_bias, (n_latents,))
        self.pre_bias = fitting("pre_bias", zeros(inner) if pre_bias is None else pre_bias, (inner,))
        self.gain = None if gain is None else fitting("gain", gain, (n_latents,))
        fitting("decoder", self.decoder, (n_latents, width))
        self.softcap = softcap
        if row_norm not in ROW_NORMS:
            raise DictionaryError(f"row_norm is one of {ROW_NORMS}; got {row_norm!r}.")
        self.row_norm = row_norm
        self.site = None if site is None else str(site)
        self.input_site = None if input_site is None else str(input_site)
        if skip is not None and input_site is None:
            raise DictionaryError("skip belongs to a transcoder: give input_site, the site that it reads.")
        self.skip = None if skip is None else fitting("skip", skip, (width, inner))
        self.model_hash = model_hash
        self.info: dict[str, Any] = dict(info or {})
        self.card: dict[str, Any] | None = None
        self._encoder_16: Tensor | None = None
        self._hash: str | None = None

    # what a kind defines

    @property
    def k(self) -> int | None:
        """Active latents per row if that number is fixed, else None."""
        return None

    def settings(self) -> dict[str, Any]:
        """The kind's own numbers: constructor arguments that JSON can hold."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The kind's own tensors, each (n_latents,) or of the shape its class states: further constructor arguments."""
        return {}

    def select(self, pre: Tensor) -> SparseCodes:
        """Codes before soft cap and gain, from pre-activations (rows, n_latents) in float32 or bfloat16.

        A row's codes depend on that row alone.

        Raises:
            DictionaryError: this is the base class; each kind implements its own.
        """
        raise DictionaryError(
            f"{type(self).__name__} has no selection rule; use one of the kinds, e.g. TopK."
        )

    # the core that all kinds share

    @property
    def n_latents(self) -> int:
        """Number of directions."""
        return self.decoder.shape[0]

    @property
    def width(self) -> int:
        """Numbers in one activation at `site`."""
        return self.decoder.shape[1]

    @property
    def input_width(self) -> int:
        """Numbers in one activation that `encode` takes: `width`, except in transcoders."""
        return self.encoder.shape[1]

    @property
    def is_transcoder(self) -> bool:
        """Whether `encode` reads another site than `decode` predicts."""
        return self.input_site is not None

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.decoder.device

    @property
    def hash(self) -> str:
        """16 hex digits over everything that determines codes and reconstructions."""
        if self._hash is None:
            self._hash = self._hashed(self._identity())
        return self._hash

    def _hashed(self, identity: dict[str, Any]) -> str:
        tensors = {f"{name}{tuple(tensor.shape)}": tensor for name, tensor in self._all_tensors().items()}
        return tensors_digest(tensors, json.dumps(identity, sort_keys=True), by="sha256")

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        size = f"{self.n_latents} latents, width {self.width}{k}"
        where = f"site {self.site}" if self.input_site is None else f"from {self.input_site} to {self.site}"
        return f"<{self.kind} dictionary {self.hash}: {size}, {where}>"

    def encode(self, acts: Tensor, *, precision: str = "float32") -> SparseCodes:
        """Codes of activations, computed in chunks so that memory does not grow with the batch.

        Args:
            acts: (batch, input_width); flatten token activations with `acts.flatten(0, 1)`.
            precision: dtype of the encoder product: "float32", "bfloat16" (relative error of values about 0.4 %), or
                "auto" for the faster of the two.

        Returns:
            Codes in the units of the activations.

        Raises:
            DictionaryError: another width or dtype, or NaN or infinite values (the first such row is named).
        """
        acts = checked_acts(acts, self.input_width).float()
        dtype = matmul_dtype(self.device, precision)
        rows = chunk_rows(self.n_latents, dtype.itemsize)
        if len(acts) == 0:
            return self._encode_rows(acts, dtype)
        return SparseCodes.cat([self._encode_rows(part, dtype) for part in acts.split(rows)])

    def preactivations(self, acts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(batch, n_latents): the input of `select`. Dense, so call it on a few rows at a time."""
        centred = acts - self.pre_bias
        if dtype == torch.float32:
            return torch.addmm(self.encoder_bias, centred, self.encoder.T)
        if self._encoder_16 is None or self._encoder_16.dtype != dtype:
            self._encoder_16 = self.encoder.to(dtype)
        return torch.addmm(self.encoder_bias.to(dtype), centred.to(dtype), self._encoder_16.T)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Reconstruction from codes, sum_j a_j v_j + b: (batch, width), in the units of the activations.

        Raises:
            DictionaryError: codes with another number of latents, or without the row statistics that `row_norm` needs.
        """
        if codes.n_latents != self.n_latents:
            raise DictionaryError(
                f"These codes have {codes.n_latents} latents, the dictionary has {self.n_latents}: they come from "
                "another dictionary. Encode the activations with this one."
            )
        summed = bag_sum(self.decoder, codes.indices.reshape(-1), codes.values.reshape(-1), codes.starts())
        if not self.row_norm:
            return summed + self.bias
        if codes.row_stats is None:
            raise DictionaryError(
                "This dictionary normalises each row, so decoding needs the rows' mean and deviation. Pass codes that "
                "its own encode() returned."
            )
        mean, deviation = codes.row_stats[:, :1], codes.row_stats[:, 1:]
        return summed + deviation * self.bias + mean

    def reconstruct(self, acts: Tensor) -> Tensor:
        """(batch, width): decode(encode(acts)); a transcoder's prediction of its output site, skip path included.

        Args:
            acts: (batch, input_width).

        Raises:
            DictionaryError: as for `encode`.
        """
        codes = self.encode(acts)
        recon = self.decode(codes)
        if self.skip is None:
            return recon
        through = acts.float() @ self.skip.T
        return recon + (through if codes.row_stats is None else through * codes.row_stats[:, 1:])

    def error(self, acts: Tensor, codes: SparseCodes) -> Tensor:
        """The error node, acts - decode(codes): (batch, width). Adding it to decode(codes) restores acts.

        Args:
            acts: (batch, width), the activations at `site` (for a transcoder: at its output).
            codes: of the same activations.

        Raises:
            DictionaryError: as for `decode`.
        """
        return acts - self.decode(codes)

    def check(self, acts: Tensor, outputs: Tensor | None = None) -> dict[str, float]:
        """Compare this dictionary with its usual misreadings (other pre-bias, row normalisation, sign rule).

        Args:
            acts: (rows, input_width), activations at the dictionary's site; a few hundred rows are enough.
            outputs: (rows, width), for transcoders only: the activations at the output site.

        Returns:
            Fraction of variance unexplained (FVU) by the name of each reading, "as loaded" first. Also printed.

        Raises:
            DictionaryError: the dictionary as loaded has FVU > 1 (wrong site, model or reading), fewer than 2 rows, or
                rows without variation.
        """
        return check_reading(self, acts, outputs)

    def to(self, device: torch.device | str) -> Dictionary:
        """A copy of the dictionary on another device."""
        return self._rebuilt({name: tensor.to(device) for name, tensor in self._all_tensors().items()})

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `sae.safetensors` into a folder, completely or not at all.

        Raises:
            DictionaryError: the files cannot be written.
        """
        folder = user_path(folder)
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
        if self.input_site is not None:
            config["input_site"] = self.input_site
        text = json.dumps(config, indent=2, sort_keys=True)
        sweep(folder)
        try:
            # Clones, because safetensors refuses tensors that share storage.
            tensors = {name: t.detach().cpu().clone() for name, t in self._all_tensors().items()}
            save_tensors(folder / WEIGHTS_FILE, tensors)
            write_text(folder / CONFIG_FILE, text + "\n")
        except (OSError, SafetensorError) as error:
            raise DictionaryError(f"The dictionary in {folder} could not be written ({error}).") from error

    # internals

    def _encode_rows(self, acts: Tensor, dtype: torch.dtype) -> SparseCodes:
        stats = None
        if self.row_norm:
            acts, stats = normalised_rows(acts, self.row_norm)
        codes = self.select(self.preactivations(acts, dtype))
        values = codes.values
        if self.softcap is not None:
            values = self.softcap * torch.tanh(values / self.softcap)
        if self.gain is not None:
            values = values * self.gain[codes.indices.long()]
        if stats is not None:
            values = values * stats[:, 1][codes.row_of_entries()].view_as(values)
        return SparseCodes(codes.indices, values, self.n_latents, codes.offsets, stats)

    def _identity(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "settings": self.settings(),
            "softcap": self.softcap,
            "row_norm": self.row_norm,
        }

    def _all_tensors(self) -> dict[str, Tensor]:
        shared = ("decoder", "bias", "encoder", "encoder_bias", "pre_bias")
        optional = {"gain": self.gain, "skip": self.skip}
        return {
            **{name: getattr(self, name) for name in shared},
            **self.tensors(),
            **{name: tensor for name, tensor in optional.items() if tensor is not None},
        }

    def _rebuilt(self, parts: dict[str, Tensor], **changes: Any) -> Any:
        names = ("softcap", "row_norm", "site", "input_site", "model_hash", "info")
        kept: dict[str, Any] = {**parts, **self.settings(), **{name: getattr(self, name) for name in names}}
        made = type(self)(**{**kept, **changes})
        made.card = self.card
        return made
