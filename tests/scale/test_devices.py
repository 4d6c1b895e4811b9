"""An audit and a verification never mix devices, shown on a machine without a GPU.

The models' tensors carry a mark, as if they lay on another device. Every operation gives its mark on, fails where a
marked and an unmarked tensor meet, and where a marked one goes to NumPy; only a transfer changes it.
"""

import copy

import pytest
import torch
from torch.overrides import TorchFunctionMode

import clipattr as ca
from clipattr.discovery.findings import Finding
from clipattr.models.loading import Model
from clipattr.statistics import Interval

AWAY = torch.device("xla")  # a device name that torch knows and nobody here has
READ = {
    "__get__",
    "__set__",
    "size",
    "dim",
    "__len__",
    "numel",
    "stride",
    "is_floating_point",
    "type",
    "__repr__",
}
HOST = {"numpy", "__array__", "tolist"}  # need the CPU


def tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def away(tensor):
    return getattr(tensor, "_away", False)


def marked(value, mark):
    for one in tensors([value]):
        one._away = mark
    return value


class Devices(TorchFunctionMode):
    """Pretends that marked tensors lie on `AWAY`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        given = list(tensors([*args, *kwargs.values()]))
        if function == torch.Tensor.device.__get__:
            return AWAY if away(args[0]) else function(*args, **kwargs)
        if name in ("to", "cpu", "type_as"):
            return self.moved(name, function, args, kwargs)
        if name in READ:
            made = function(*args, **kwargs)
            return marked(made, away(args[0])) if isinstance(made, torch.Tensor) else made
        if name in HOST and any(away(one) for one in given):
            raise AssertionError(f"{name} of a tensor on the other device")
        device = kwargs.get("device")
        if device is not None and torch.device(device) == AWAY:
            kwargs["device"] = torch.device("cpu")
            return marked(function(*args, **kwargs), True)
        sides = {
            away(one) for one in given if one.dim()
        }  # numbers without a dimension may come from anywhere
        if len(sides) == 2:
            raise AssertionError(
                f"{name or function} mixes devices: {[(tuple(t.shape), away(t)) for t in given]}"
            )
        made = function(*args, **kwargs)
        return marked(made, True) if True in sides or any(away(one) for one in given) else made

    def moved(self, name, function, args, kwargs):
        tensor, rest = args[0], list(args[1:])
        mark = away(tensor)
        if name == "cpu":
            mark = False
        elif name == "type_as" or (rest and isinstance(rest[0], torch.Tensor)):
            mark = away(rest[0])
        else:
            for place, value in enumerate(rest):
                if isinstance(value, torch.device | str):
                    mark, rest[place] = torch.device(value) == AWAY, torch.device("cpu")
            if kwargs.get("device") is not None:
                mark, kwargs["device"] = torch.device(kwargs["device"]) == AWAY, torch.device("cpu")
        made = function(tensor, *rest, **kwargs)
        if mark != away(made):
            made = marked(
                made.view_as(made) if made is tensor else made, mark
            )  # the given tensor keeps its mark
        return made


def put_away(model):
    moved = copy.copy(model)
    moved.clip = copy.deepcopy(model.clip)
    for one in [*moved.clip.parameters(), *moved.clip.buffers()]:
        one._away = True
    return moved


@pytest.fixture
def study(monkeypatch):
    monkeypatch.setattr(
        Model,
        "device",
        property(lambda self: AWAY if away(next(self.clip.parameters())) else torch.device("cpu")),
    )
    opened = copy.copy(ca.open_study("picture-world"))
    opened._models = {"model": put_away(opened.model), "evaluator": put_away(opened.evaluator)}
    return opened


def test_mixed_devices_are_noticed():
    here, there = torch.ones(3), marked(torch.ones(3), True)
    with Devices():
        assert away(there * 2) and away(there[:2]) and not away(here + 1)
        with pytest.raises(AssertionError, match="mixes devices"):
            here + there
        with pytest.raises(AssertionError, match="numpy"):
            there.numpy()
        assert not away(there.cpu()) and away(here.to(AWAY)) and not away(here)
        assert away(torch.zeros(2, device=there.device)) and there.device == AWAY


def test_an_audit_keeps_to_its_devices(study):
    with Devices():
        found = ca.audit(study, ["rose"], progress=False)
    assert found.verdicts[0].forwards > 0


def test_a_verification_keeps_to_its_devices(study):
    nothing = Interval(0.0, 0.0, 0.0)
    latent = int(study.examples.counts.argmax())
    item = Finding("kite", (latent,), None, "unknown", 0.0, nothing, nothing, 0.0, 0.0, 0.0, 0.0)
    quick = ca.PixelSettings(9, weak_pictures=9, windows=2, fractions=(0.25,), kept=(0.5,), borders=())
    with Devices():
        checked = ca.verify(study, item, settings=quick, progress=False)
    assert checked[0].evidence["pixels"]["edit"] is not None
