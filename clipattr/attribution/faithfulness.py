"""Faithfulness: how well attributions predict the effects of ablating latents in the attributed model.

Owns the measures (deletion, insertion, rank correlation with exact ablation, group effects of random masks, parameter
randomisation) and their table. Bias and error node are unchanged in all of them. Rank correlation with single ablation
favours methods that approximate single ablation, so read it together with deletion, insertion and group effects. Start
at `faithfulness`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.attribution.compute import placed_splices
from clipattr.attribution.methods import METHODS, find_method
from clipattr.attribution.pixels import count
from clipattr.attribution.splice import Splice
from clipattr.attribution.target import LinearTarget, Target
from clipattr.attribution.targets import FunctionTarget, ProbeLogit
from clipattr.errors import DataError
from clipattr.models.surroundings import unaffected
from clipattr.sites import Site
from clipattr.statistics import Interval, bootstrap, pearson, per_picture, sign_flip, spearman_of_active

if TYPE_CHECKING:
    import pandas as pd

MEASURES = (
    "rank_correlation",
    "deletion",
    "insertion",
    "deletion_by_size",
    "deletion_per_class",
    "group_effects",
    "randomised_model",
)
_CORRELATIONS = ("rank_correlation", "group_effects", "randomised_model")
DEFAULT_METHODS = (
    "exact", "patching", "integrated_gradients", "act_logit_lens", "logit_lens", "energy", "random",
)  # fmt: skip
_BUILT_IN = frozenset(METHODS)  # methods that a user registers later are measured by default


def default_methods() -> list[str]:
    """The methods measured by default: `DEFAULT_METHODS` and all that a user has registered."""
    return [*DEFAULT_METHODS, *(name for name in METHODS if name not in _BUILT_IN)]


def signed(values: Tensor) -> Tensor:
    """Order by signed value, largest first."""
    return values


def by_size(values: Tensor) -> Tensor:
    """Order by |value|, as in the paper."""
    return values.abs()


def removal_curve(splice: Splice, values: Tensor, *, key: Callable[[Tensor], Tensor] = signed) -> Tensor:
    """The targets while parts are set to their baseline one after another, highest `key` first.

    Args:
        values: (batch, parts, n); each target has its own order. Parts at their baseline come last.

    Returns:
        (batch, parts + 1, n); the first entry is `y`.
    """
    return _curve(splice, _order(splice, key(values)), splice.amounts, splice.reference)


def insertion_curve(splice: Splice, values: Tensor, *, key: Callable[[Tensor], Tensor] = signed) -> Tensor:
    """The targets while parts are restored from the baseline, highest `key` first: (batch, parts + 1, n)."""
    return _curve(splice, _order(splice, key(values)), splice.reference, splice.amounts)


def _order(splice: Splice, keys: Tensor) -> Tensor:
    """(batch, parts, n): index of the s-th part in the order; parts at their baseline come last."""
    idle = (splice.changes == 0)[..., None]
    return torch.where(idle, -torch.inf, keys.to(torch.float64)).argsort(dim=1, descending=True, stable=True)


def _curve(splice: Splice, order: Tensor, before: Tensor, after: Tensor) -> Tensor:
    batch, parts, n = order.shape
    rank = torch.empty_like(order)
    steps = torch.arange(parts, device=order.device)
    rank.scatter_(1, order, steps[None, :, None].expand_as(order))
    result = splice.y.new_empty(batch, parts + 1, n)
    counts = torch.arange(parts + 1, device=order.device)
    for target in range(n):
        moved = rank[:, None, :, target] < counts[None, :, None]
        states = torch.where(moved, after[:, None], before[:, None])
        result[..., target] = splice.states(states)[..., target]
    return result


def mean_drop(splice: Splice, curve: Tensor) -> Tensor:
    """Area of a removal curve: mean of `y - y after s removals` over s = 1 … active parts, (batch, n).

    In the unit of the target, signed; higher is more faithful.
    """
    return _mean_over_steps(splice, curve[:, :1] - curve)


def mean_change(splice: Splice, curve: Tensor) -> Tensor:
    """As `mean_drop`, of |change|; for orders by size, in which rises and falls count equally."""
    return _mean_over_steps(splice, (curve[:, :1] - curve).abs())


def mean_rise(splice: Splice, curve: Tensor) -> Tensor:
    """Area of an insertion curve: mean of `y after s insertions - y at the baseline`, (batch, n)."""
    return _mean_over_steps(splice, curve - curve[:, :1])


def _mean_over_steps(splice: Splice, curve: Tensor) -> Tensor:
    active = (splice.changes != 0).sum(1)
    steps = torch.arange(curve.shape[1], device=curve.device)
    inside = ((steps > 0) & (steps[None] <= active[:, None]))[..., None]
    return (curve * inside).sum(1) / active.clamp_min(1)[:, None]


def class_values(splice: Splice, values: Tensor, classes: Sequence[Any]) -> Tensor:
    """Values replaced by the latent's mean over the pictures of the same class, with 0 where it is not active.

    This gives one order per class, for deletion per class.
    """
    if len(classes) != splice.batch:
        raise DataError(f"{splice.batch} pictures need as many classes; got {len(classes)}.")
    result = torch.zeros_like(values)
    for name in set(classes):
        rows = torch.tensor([number for number, other in enumerate(classes) if other == name])
        latents, places = splice.indices[rows].unique(return_inverse=True)
        flat = values[rows].reshape(-1, values.shape[2])
        means = flat.new_zeros(len(latents), values.shape[2]).index_add_(0, places.flatten(), flat) / len(
            rows
        )
        result[rows] = means[places]
    return result


def group_correlation(
    splice: Splice, values: Tensor, *, masks: int = 64, share: float = 0.5, seed: int = 0
) -> Tensor:
    """Correlation over random groups of the summed values and the group's exact effect, (batch, n).

    Args:
        masks: random groups per picture, the same for every method.
        share: probability that a part is in a group.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(splice.batch, masks, splice.parts, generator=generator) < share).to(
        splice.acts.device
    )
    states = torch.where(drawn, splice.reference[:, None], splice.amounts[:, None])
    true = splice.y[:, None] - splice.states(states)
    predicted = torch.einsum("bmp,bpn->bmn", drawn.to(values), values)
    return pearson(predicted.transpose(1, 2), true.transpose(1, 2))


def can_randomise(model: Any, site: Site | str) -> bool:
    """Whether a matrix that `randomised` can shuffle follows this site: an image site before the embedding."""
    place = Site(site)
    return not place.is_embedding and not place.is_text and model.image_tower.last_matrix is not None


def randomised(model: Any, seed: int = 0) -> Any:
    """A copy of the model whose last matrix is shuffled, for the parameter randomisation test.

    The matrix follows the last block, so activations and codes are unchanged.

    Raises:
        DataError: no matrix follows the last block.
    """
    if model.image_tower.last_matrix is None:
        raise DataError(
            "this model has no matrix after its last block to randomise; call faithfulness with randomise=False."
        )
    other = copy.copy(model)
    other.clip = copy.deepcopy(model.clip)
    projection = other.image_tower.last_matrix
    assert projection is not None
    with torch.no_grad():
        order = torch.randperm(projection.numel(), generator=torch.Generator().manual_seed(seed))
        projection.copy_(projection.flatten()[order.to(projection.device)].view_as(projection))
    return other


def randomisation(splice: Splice, method: str, *, seed: int = 0) -> Tensor:
    """Spearman of a method's values before and after `randomised`, (batch, n); near 0 is a pass."""
    return randomisations(splice, [method], randomised(splice.model, seed))[method]


def randomisations(splice: Splice, methods: Sequence[str], model: Any) -> dict[str, Tensor]:
    """`randomisation` of several methods, with a model that `randomised` returned."""
    other = Splice(
        model,
        splice.dictionary,
        splice.site,
        splice.acts,
        _fixed_target(splice),
        codes=splice.codes,
        context=splice.context,
    )
    plain = Splice(
        splice.model, splice.dictionary, splice.site, splice.acts, splice.target, codes=splice.codes,
        context=splice.context,
    )  # fmt: skip
    chosen = [find_method(method, splice) for method in methods]
    active = plain.changes != 0
    return {
        m: spearman_of_active(one(plain), one(other), active) for m, one in zip(methods, chosen, strict=True)
    }


def _fixed_target(splice: Splice) -> Target:
    """The target with prompts embedded by the original model, for use with the randomised one."""
    if isinstance(splice.target, LinearTarget):
        weights, constants = splice.target.linear(splice.model)
        return ProbeLogit(weights.T, constants, names=splice.target.names)
    return FunctionTarget(lambda e: splice.target.values(e, splice.model), names=splice.target.names)


@dataclass(frozen=True)
class Faithfulness:
    """Measures of several methods on the same pictures and targets.

    Attributes:
        scores: {(method, measure): (pictures, n)}, NaN where undefined.
        methods: in the requested order.
        unit: of deletion and insertion; correlations have none.
    """

    scores: dict[tuple[str, str], Tensor]
    methods: list[str]
    unit: str

    def summary(self, method: str, measure: str) -> Interval:
        """Mean over pictures with its bootstrap interval, clustered by picture; KeyError if it was not measured."""
        return bootstrap(self.scores[method, measure])

    @property
    def table(self) -> pd.DataFrame:
        """One row per measure and method: mean, low, high (95 %), pictures."""
        import pandas as pd

        rows = []
        for measure in MEASURES:
            for method in self.methods:
                if (method, measure) in self.scores:
                    found = self.summary(method, measure)
                    pictures = len(per_picture(self.scores[method, measure]))
                    rows.append((measure, method, found.value, found.low, found.high, pictures))
        return pd.DataFrame(rows, columns=["measure", "method", "mean", "low", "high", "pictures"])

    def compare(self, one: str, two: str, measure: str) -> tuple[Interval, float]:
        """Paired difference of two methods over pictures, and the p-value of a sign-flip test.

        Returns:
            Mean of `one` minus `two` with its interval (positive: `one` is more faithful), and p.

        Raises:
            KeyError: a method or measure that was not measured.
        """
        difference = self.scores[one, measure] - self.scores[two, measure]
        return bootstrap(difference), sign_flip(difference)

    def plot(self, measure: str = "rank_correlation") -> Any:
        """Figure with mean and interval of every method for one measure; DataError if it was not measured."""
        from clipattr.display.plots import BLUE, INK, Chart

        found = [
            (method, self.summary(method, measure))
            for method in self.methods
            if (method, measure) in self.scores
        ]
        if not found:
            raise DataError(f"{measure!r} was not measured; the measures are {', '.join(MEASURES)}.")
        scale = 1.0 if self.unit != "cosine" or measure in _CORRELATIONS else 100.0
        chart = Chart(6.4, 0.8 + 0.34 * len(found))
        axes = chart.add_subplot()
        means = [scale * score.value for _, score in found]
        low = [scale * (score.value - score.low) for _, score in found]
        high = [scale * (score.high - score.value) for _, score in found]
        axes.errorbar(means, range(len(found)), xerr=[low, high], fmt="o", color=BLUE, capsize=3)
        axes.set_yticks(range(len(found)), labels=[method.replace("_", " ") for method, _ in found])
        axes.invert_yaxis()
        axes.axvline(0, color=INK, linewidth=0.8)
        unit = "" if scale == 1.0 else ", points"
        axes.set_xlabel(f"{measure.replace('_', ' ')}{unit} (95 % interval over pictures)")
        return chart


@unaffected
def faithfulness(
    source: Any,
    images: Any,
    target: Any,
    *,
    methods: Sequence[str] | None = None,
    dictionary: Any = None,
    site: Any = None,
    baseline: Any = None,
    classes: Sequence[Any] | None = None,
    masks: int = 64,
    randomise: bool = False,
    batch: int = 32,
) -> Faithfulness:
    """Compare the values of attribution methods with measured effects of ablating latents.

    Args:
        source, images, target, dictionary, site, baseline, batch: as for `attribute`.
        methods: names in `METHODS`; default `DEFAULT_METHODS` and all methods that a user has registered.
        classes: the class of each picture, e.g. `images.columns["label"]`. Adds `deletion_per_class`, with one order of
            latents per class; all pictures are then in memory at once.
        masks: random groups per picture for `group_effects`.
        randomise: add `randomised_model`; needs a model with a matrix after its last block.

    Returns:
        A `Faithfulness` with these measures; higher is more faithful, except for `randomised_model`.
        `rank_correlation`: Spearman with exact ablation over active latents.
        `deletion`, `insertion`: mean fall or rise of the target, largest value first, in the unit of the target.
        `deletion_by_size`: mean |change|, largest |value| first, as in the paper.
        `group_effects`: correlation with the exact effects of random groups.
        `randomised_model`: Spearman of the values before and after shuffling the model's last matrix; near 0 for a
        method that depends on the model, 1 for one that does not.

    Raises:
        DataError: no picture, another number of classes than pictures, or no matrix to randomise.
        TargetError: an unknown method, or a target that cannot be interpreted.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> measured = ca.faithfulness(study, study.images[:3], "kite", methods=["patching", "random"])
    >>> one, other = (measured.summary(name, "rank_correlation").value for name in ("patching", "random"))
    >>> one > other
    True

    Source: Dreyer et al. 2025, arXiv:2505.20229 (deletion); Adebayo et al. 2018, arXiv:1810.03292 (randomisation).
    """
    methods = default_methods() if methods is None else list(methods)
    scores: dict[tuple[str, str], list[Tensor]] = {}
    unit = ""
    other: Any = None
    if classes is not None:
        if len(classes) != count(images):
            raise DataError(
                f"{count(images)} pictures need as many classes; got {len(classes)}. Give one per picture."
            )
        batch = max(batch, len(classes))
    for _, places, splice in placed_splices(
        source, images, target, dictionary=dictionary, site=site, baseline=baseline, batch=batch
    ):
        unit = splice.target.unit
        if randomise:
            other = other or randomised(splice.model)
            for method, values in randomisations(splice, methods, other).items():
                scores.setdefault((method, "randomised_model"), []).append(values.double().cpu())
        own = None if classes is None else [classes[place] for place in places]
        for method, found in measure_splice(splice, methods, classes=own, masks=masks).items():
            for measure, values in found.items():
                scores.setdefault((method, measure), []).append(values.double().cpu())
    if not scores:
        raise DataError(
            "no picture was measured: none was given, or none could be read. Give readable pictures."
        )
    return Faithfulness({key: torch.cat(parts) for key, parts in scores.items()}, methods, unit)


def measure_splice(
    splice: Splice, methods: Sequence[str], *, classes: Sequence[Any] | None = None, masks: int = 64
) -> dict[str, dict[str, Tensor]]:
    """All measures of all methods on one splice: method to measure to (batch, n)."""
    truth = METHODS["exact"](splice)
    active = splice.changes != 0
    result = {}
    for method in methods:
        values = truth if method == "exact" else find_method(method, splice)(splice)
        result[method] = {
            "rank_correlation": spearman_of_active(values, truth, active),
            "deletion": mean_drop(splice, removal_curve(splice, values)),
            "insertion": mean_rise(splice, insertion_curve(splice, values)),
            "deletion_by_size": mean_change(splice, removal_curve(splice, values, key=by_size)),
            "group_effects": group_correlation(splice, values, masks=masks),
        }
        if classes is not None:
            shared = class_values(splice, values, classes)
            result[method]["deletion_per_class"] = mean_drop(splice, removal_curve(splice, shared))
    return result
