"""Targets: the numbers read off an image embedding that attribution explains.

Owns the definitions of `y`: prompts, contrasts, units. Ignores sites, dictionaries and methods. A *linear* target is
`y = <e, w> + c` on the unit-length embedding `e`; its `(w, c)` is all that the closed-form tail needs. Any other target
is a differentiable function of `e`. The interface is in target.py.
Start at `Similarity` and `as_target`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clipattr.attribution.pixels import picture_in
from clipattr.attribution.prompts import Prompts, embed_prompts, prompt_names
from clipattr.attribution.target import LinearTarget, LinearTogether, Target, Together
from clipattr.errors import TargetError


def _written(prompts: Prompts, count: int) -> list[str | None]:
    """Texts of the prompts, repeated to `count`; None for each prompt that is an embedding."""
    if isinstance(prompts, Tensor):
        return [None] * count
    found: list[str | None] = [prompts] if isinstance(prompts, str) else list(prompts)
    return found * (count // len(found))


def _no_constants(weights: Tensor) -> tuple[Tensor, Tensor]:
    return weights, weights.new_zeros(weights.shape[1])


class Similarity(LinearTarget):
    """Cosine of image and prompt embeddings, in [-1, 1].

    Args:
        prompts: one prompt, a sequence of prompts (one target each), or embeddings (embed,) or (n, embed), which are
            normalised to unit length.
        templates: every prompt is put into each template; the unit embeddings are averaged and normalised again.
        names: names of the targets; default the prompts.

    Raises:
        TargetError: no prompt, a blank prompt, or an embedding that is zero or not finite. A prompt longer than the
            model's context is reported when a model first embeds it.

    >>> import clipattr as ca
    >>> model = ca.load_model("picture-world-a")
    >>> weights, constants = ca.Similarity(["kite", "bat"], templates=["a photo of a {}"]).linear(model)
    >>> weights.shape, weights.norm(dim=0)  # unit-length columns, one per prompt
    (torch.Size([128, 2]), tensor([1., 1.]))
    """

    def __init__(
        self, prompts: Prompts, *, templates: Sequence[str] = ("{}",), names: Sequence[str] | None = None
    ) -> None:
        self.names = prompt_names(prompts, names)
        self.prompts, self.templates = prompts, tuple(templates)

    @property
    def subjects(self) -> list[str | None]:
        return _written(self.prompts, len(self))

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        return _no_constants(self._embedded("prompts", self.prompts, model).T)


class Contrast(LinearTarget):
    """Difference of two similarities, `cos(E, a) - cos(E, b)`, in [-2, 2].

    Args:
        a, b: each as `prompts` of `Similarity`; one side may be a single prompt that is contrasted with many.
        templates: as for `Similarity`.

    Raises:
        TargetError: the two sides are the same prompt or (on use) the same embedding, or their numbers of prompts do
            not match.

    >>> Contrast("kite", ["bat", "camel"]).names
    ['kite - bat', 'kite - camel']
    """

    def __init__(self, a: Prompts, b: Prompts, *, templates: Sequence[str] = ("{}",)) -> None:
        left, right = prompt_names(a, None, "a"), prompt_names(b, None, "b")
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            raise TargetError(
                f"a contrast needs equally many prompts on both sides, or one against many; got {len(left)} and "
                f"{len(right)}. Build one Contrast per pair otherwise."
            )
        count = max(len(left), len(right))
        left, right = left * (count // len(left)), right * (count // len(right))
        for one, other in zip(left, right, strict=True):
            if one == other and isinstance(a, str | list | tuple) and isinstance(b, str | list | tuple):
                raise TargetError(
                    f"both sides of the contrast are {one!r}: it is zero everywhere. Change one side."
                )
        self.names = [f"{one} - {other}" for one, other in zip(left, right, strict=True)]
        self.a, self.b, self.templates = a, b, tuple(templates)

    @property
    def subjects(self) -> list[str | None]:
        return _written(self.a, len(self))

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        a = self._embedded("a", self.a, model)
        b = self._embedded("b", self.b, model)
        weights = (a - b).T
        same = (weights.norm(dim=0) < 1e-6).nonzero().flatten().tolist()
        if same:
            raise TargetError(
                f"the two sides of the contrast {self.names[same[0]]!r} have the same embedding: it is zero "
                "everywhere. Change one side."
            )
        return _no_constants(weights)


class VocabularyContrast(LinearTarget):
    """Similarity to a prompt minus the mean similarity to a vocabulary, in raw cosine; the audit's default.

    A latent that raises the similarity to every prompt equally has attribution 0.

    Args:
        prompts: as for `Similarity`.
        vocabulary: words, embeddings (n, embed), or an object with `.embed(model)` that returns embeddings.
        templates: as for `Similarity`.

    Raises:
        TargetError: no prompt, a blank prompt, or an embedding that is zero or not finite.

    >>> VocabularyContrast(["kite", "bat"], ["a dog", "a cat", "a tree"]).names
    ['kite - vocabulary', 'bat - vocabulary']
    """

    def __init__(self, prompts: Prompts, vocabulary: Any, *, templates: Sequence[str] = ("{}",)) -> None:
        self.names = [f"{name} - vocabulary" for name in prompt_names(prompts, None)]
        if not hasattr(vocabulary, "embed"):
            prompt_names(vocabulary, None)
        self.prompts, self.vocabulary, self.templates = prompts, vocabulary, tuple(templates)

    @property
    def subjects(self) -> list[str | None]:
        return _written(self.prompts, len(self))

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        text = self._embedded("prompts", self.prompts, model)
        embed = getattr(self.vocabulary, "embed", None)
        words = embed(model) if embed else self._embedded("vocabulary", self.vocabulary, model)
        return _no_constants((text - words.to(text).mean(0)).T)


class ZeroShot(LinearTarget):
    """Logits of a zero-shot classifier, centred over its classes: `s (cos(E, T_c) - mean_c cos(E, T_c))`.

    `s` is the model's logit scale (inverse temperature). Centring removes the part of a logit that is common to all
    classes; the softmax is unchanged.

    Args:
        classes: two or more prompts, or embeddings (n, embed).
        templates: as for `Similarity`.

    Raises:
        TargetError: fewer than two classes, or a blank one.

    >>> import clipattr as ca
    >>> weights, _ = ZeroShot(["kite", "bat", "rose"]).linear(ca.load_model("picture-world-a"))
    >>> bool(weights.sum(1).abs().max() < 1e-4)  # centred: the logits of a picture sum to 0
    True
    """

    unit = "logit"

    def __init__(self, classes: Prompts, *, templates: Sequence[str] = ("{}",)) -> None:
        self.names = prompt_names(classes, None)
        if len(self.names) < 2:
            raise TargetError(
                f"a zero-shot classifier needs at least two classes; got {self.names}. Add classes."
            )
        self.classes, self.templates = classes, tuple(templates)

    @property
    def subjects(self) -> list[str | None]:
        return _written(self.classes, len(self))

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        text = self._embedded("classes", self.classes, model)
        return _no_constants(model.logit_scale * (text - text.mean(0)).T)


class ProbeLogit(LinearTarget):
    """Logit of a linear probe on unit-length image embeddings, `<e, w_c> + b_c`.

    Args:
        weights: (n, embed) or (embed,), one row per class, as scikit-learn's `coef_`.
        bias: (n,) or a number, as scikit-learn's `intercept_`.
        names: names of the classes; default their numbers.

    Raises:
        TargetError: weights that are not finite or of another shape, or another number of biases or names than rows;
            on use, a model whose embedding has another width.

    >>> probe = ProbeLogit([[1.0, 0.0], [0.0, 2.0]], [0.5, -0.5], names=["dog", "cat"])
    >>> probe.names, probe.unit
    (['dog', 'cat'], 'logit')
    """

    unit = "logit"

    def __init__(self, weights: Any, bias: Any = 0.0, *, names: Sequence[str] | None = None) -> None:
        self.weights = torch.atleast_2d(torch.as_tensor(weights).detach())
        if self.weights.ndim != 2 or not torch.isfinite(self.weights).all():
            raise TargetError(
                f"probe weights must be finite and of shape (classes, embed); got {tuple(self.weights.shape)}. "
                "Pass the classifier's coef_."
            )
        bias = torch.as_tensor(bias, dtype=self.weights.dtype).detach().flatten()
        if len(bias) not in (1, len(self.weights)):
            raise TargetError(
                f"{len(self.weights)} rows of weights need as many biases, or one; got {len(bias)}."
            )
        self.bias = bias.expand(len(self.weights))
        self.names = prompt_names(self.weights, names, "class")

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        if self.weights.shape[1] != model.embed_dim:
            raise TargetError(
                f"the probe has {self.weights.shape[1]} weights per class, the model's embedding {model.embed_dim} "
                "numbers. Use the probe with the model that it was fitted on."
            )
        return self.weights.T.to(model.device, model.dtype), self.bias.to(model.device, model.dtype)


class ImageSimilarity(LinearTarget):
    """Cosine with the embedding of another picture, in [-1, 1].

    Args:
        pictures: embeddings (embed,) or (n, embed), or one picture or a list in any form that `model.prepare` takes.
        names: names of the pictures; default their numbers.

    Raises:
        TargetError: no picture, another number of names than pictures, or an embedding that is zero or not finite.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> att = ca.attribute(study, study.images[0], ca.ImageSimilarity(study.images[0]))
    >>> round(float(att.y), 4)  # a picture is most similar to itself
    1.0
    """

    def __init__(self, pictures: Any, *, names: Sequence[str] | None = None) -> None:
        if isinstance(pictures, Tensor):
            self.names = prompt_names(pictures, names, "picture")
        else:
            pictures = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
            if not pictures:
                raise TargetError("image-to-image similarity got no picture. Pass at least one.")
            self.names = list(names) if names else [f"picture {number}" for number in range(len(pictures))]
            if len(self.names) != len(pictures):
                raise TargetError(
                    f"{len(pictures)} pictures need as many names; got {len(self.names)}. Name each picture once."
                )
        self.pictures = pictures

    def linear(self, model: Any) -> tuple[Tensor, Tensor]:
        return _no_constants(self._once("pictures", model, lambda: self._encoded(model)).T)

    def _encoded(self, model: Any) -> Tensor:
        if isinstance(self.pictures, Tensor):
            return embed_prompts(self.pictures, model)
        prepared = [model.prepare(picture_in(picture)) for picture in self.pictures]
        with torch.no_grad():
            return model.encode_image(torch.stack(prepared).to(model.device))


class LogOdds(Target):
    """Log-odds of a prompt among a set of prompts: `log p_t - log(1 - p_t)` at the model's own temperature.

    Not linear: `p_t` is a softmax over all prompts.

    Args:
        prompt: the prompt t. Positive log-odds: t is likelier than all other prompts together.
        among: the other prompts; `prompt` is added where it is missing.
        templates: as for `Similarity`.

    Raises:
        TargetError: a blank prompt, or no other prompt to compare with.

    >>> LogOdds("kite", ["bat", "camel"]).names
    ['log-odds of kite']
    """

    unit = "log-odds"

    def __init__(self, prompt: str, among: Sequence[str], *, templates: Sequence[str] = ("{}",)) -> None:
        prompt_names(prompt, None)
        others = [other for other in dict.fromkeys(prompt_names(list(among), None)) if other != prompt]
        if not others:
            raise TargetError(
                f"log-odds of {prompt!r} need at least one other prompt to compare with. Extend `among`."
            )
        self.names = [f"log-odds of {prompt}"]
        self.prompts, self.templates = [prompt, *others], tuple(templates)

    @property
    def subjects(self) -> list[str | None]:
        return _written(self.prompts[0], len(self))

    def values(self, embeddings: Tensor, model: Any) -> Tensor:
        text = self._embedded("prompts", self.prompts, model).to(embeddings)
        logits = model.logit_scale * (embeddings @ text.T)
        return logits[..., :1] - torch.logsumexp(logits[..., 1:], dim=-1, keepdim=True)


class FunctionTarget(Target):
    """Any differentiable function of the unit-length embedding.

    Args:
        function: (batch, embed) to (batch,) or (batch, n); value i depends on row i alone.
        names: one per column of the result.
        unit: unit of the values, for tables and plots.

    Raises:
        TargetError: `function` is not callable; on use, a result of another shape or without a gradient.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> squared = FunctionTarget(lambda e: e[:, :8].square().sum(1), names=["energy of 8 axes"])
    >>> ca.attribute(study, study.images[0], squared).names
    ['energy of 8 axes']
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], *, names: Sequence[str] | None = None, unit: str = "value"
    ) -> None:
        if not callable(function):
            raise TargetError(
                f"a function target needs a function of embeddings (batch, embed); got {type(function).__name__}."
            )
        self.function, self.unit = function, unit
        self.names = list(names) if names else [getattr(function, "__name__", "function")]

    def values(self, embeddings: Tensor, model: Any) -> Tensor:
        result = self.function(embeddings)
        if isinstance(result, Tensor) and result.shape == embeddings.shape[:1]:
            result = result[:, None]
        expected = (len(embeddings), len(self.names))
        if not isinstance(result, Tensor) or tuple(result.shape) != expected:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise TargetError(
                f"the target {self.names[0]!r} must return shape {expected} for {expected[0]} embeddings; got {got}. "
                "Return one number per row, or name each column with names=[...]."
            )
        if embeddings.requires_grad and torch.is_grad_enabled() and not result.requires_grad:
            raise TargetError(
                f"the target {self.names[0]!r} is not differentiable in the embedding. Write it with torch "
                "operations and without .detach(), .numpy() or rounding."
            )
        return result


def as_target(target: Any) -> Target:
    """Convert an argument to a `Target`.

    Args:
        target: one of these: a `Target`; a string, a list of strings or embeddings (embed,) or (n, embed), for
            `Similarity`; a list with targets in it, for all of them; a function of the unit-length embedding.

    Returns:
        The target; linear where all its parts are.

    Raises:
        TargetError: none of these types.

    >>> as_target("a kite")
    Similarity(a kite)
    >>> as_target([Contrast("kite", "bat"), "camel"]).names
    ['kite - bat', 'camel']
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, str | Tensor):
        return Similarity(target)
    if isinstance(target, list | tuple):
        if all(isinstance(item, str) for item in target):
            return Similarity(list(target))
        parts = [as_target(item) for item in target]
        return (LinearTogether if all(part.is_linear for part in parts) else Together)(parts)
    if callable(target):
        return FunctionTarget(target)
    raise TargetError(
        f"a target is a prompt, a list of prompts, a Target such as Contrast('kite', 'bat'), or a function of the "
        f"embedding; got {type(target).__name__}."
    )
