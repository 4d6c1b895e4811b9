"""Usage: which parts of a file a reader looked at, so that nothing in it is ignored without a word.

Owns the recording mapping and the rule for settings that may belong to the forward pass. Start at `Recorded`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

from torch import Tensor


class Recorded(dict[str, Any]):
    """A dict that records which of its keys were read; nested dicts record too. `in` and iteration do not count.

    >>> settings = Recorded({"k": 4, "scale": 2.0, "inner": {"a": 1}})
    >>> settings["k"], settings.get("inner").get("a")
    (4, 1)
    >>> list(settings.unread())
    [('scale', 2.0)]
    """

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(
            {name: Recorded(value) if isinstance(value, dict) else value for name, value in content.items()}
        )
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key, which then counts as read; `default` where there is none."""
        self.read.add(name)
        return super().get(name, default)

    def unread(self) -> Iterator[tuple[str, Any]]:
        """Names and values that nobody read; those of nested dicts, as "outer.name", only where the dict was read."""
        for name, value in self.items():
            if name not in self.read:
                yield name, value
            elif isinstance(value, Recorded):
                yield from ((f"{name}.{inner}", held) for inner, held in value.unread())


# Words in the name of a setting that suggest it changes codes or reconstructions.
_WORDS = (
    "norm|norms|normali[sz]e[sd]?|normali[sz]er|normali[sz]ation|layernorm|scale|scales|scaled|scaler|scaling|rescale|"
    "cent(er|re)(ed)?|mean|std|whiten(ed|ing)?|zca|standardi[sz]e[d]?|bias|biases|act|activation|activations|"
    "nonlinearity|thresholds?|gates?|gated|gating|skip|residual|tied|tie|softcap|cap|topk|k|jump|jumprelu|relu|"
    "architecture|arch|transcoder|transcode|reshape|hook|hookpoint|layer|layers|sublayer|subtype|module|site|tokens?|"
    "cls|class|patch|patches|signed|clip|clamp|temperature|multiplier|offset|shift|gain|kind|type|abs|dec|enc"
)
FORWARD = re.compile(rf"(^|_)({_WORDS})(_|$)", re.IGNORECASE)

# Settings of published configs that match a word above and act in training or bookkeeping only, with their projects.
HARMLESS = (
    # Prisma (VisionModelSAERunnerConfig)
    "b_dec_init_method", "initialization_method", "max_grad_norm", "lp_norm", "dead_feature_threshold",
    "cached_activations_path", "use_cached_activations", "model_class_name", "num_patch", "*_path", "total_*",
    "transcoder_with_skip_connection", "out_hook_point_layer", "layer_out_subtype", "tokens_per_*",
    "_custom_hook_point", "vit_model_cfg", "min_*", "n_*", "d_out", "*_name",
    # HugoFry and its heirs
    "key_name", "l1_*", "*_grads", "*_window", "*_steps", "*_lr", "lr_*", "*_coefficient", "*_interval", "class_names",
    # SAELens
    "normalize_sae_decoder", "decoder_heuristic_init*", "scale_sparsity_penalty_by_decoder_norm", "noise_scale",
    "init_encoder_as_decoder_transpose", "mse_loss_normalization", "jumprelu_init_threshold", "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale", "decoder_init_norm", "sae_lens_training_version",
    "training_tokens", "store_batch_size*", "act_store_device", "prepend_bos", "seqpos_slice", "neuronpedia_id",
    "use_sparse_activations", "topk_threshold_lr", "pre_act_loss_coefficient", "resume*", "metadata", "model_kwargs",
    "model_from_pretrained_kwargs", "dataset_trust_remote_code", "exclude_special_tokens", "disable_concat_sequences",
    "sequence_separator_token", "use_error_term", "context_size",
    # dictionary_learning and its fork for vision
    "threshold_beta", "threshold_start_step", "top_k_aux", "auxk_alpha", "norm_factor", "trainer_class", "buffer",
    "group_fractions", "group_weights", "layer", "steps", "submodule_name", "wandb_name", "lm_name", "sparsity_penalty",
    "target_l0", "bandwidth", "k_anneal_steps",
    # sparsify
    "normalize_decoder", "multi_topk", "hookpoints", "layers", "layer_stride", "init_seeds", "skip_special_tokens",
    "k_decay_steps", "fvu_*", "dead_feature_*", "optimizer",
    # saev
    "remove_parallel_grads", "normalize_w_dec", "reinit_blend", "seed", "exp_factor", "n_reinit_samples",
    # Lightning checkpoints
    "callbacks", "hyper_parameters", "hparams_name", "loops", "optimizer_states", "lr_schedulers", "global_step",
)  # fmt: skip


def suspicious(settings: Recorded, ignore: tuple[str, ...] = ()) -> list[str]:
    """Names of settings that were not read, hold a value, and whose name suggests that they change the forward pass.

    Tensors are not listed; unused ones are an error of their own.

    Args:
        ignore: further names (patterns as in `fnmatch`) that the caller knows to be harmless.
    """
    found = []
    for dotted, value in settings.unread():
        name = dotted.rpartition(".")[2]
        empty = isinstance(value, Tensor) or value in (None, "", [], {})
        known = any(fnmatch(name, pattern) or fnmatch(dotted, pattern) for pattern in (*HARMLESS, *ignore))
        if not empty and not known and FORWARD.search(name):
            found.append(dotted)
    return sorted(found)
