"""Training by several processes: the same dictionary as one process makes from the same global batches."""

import os
import subprocess
import sys

import pytest
import torch

from clipattr.dictionaries import load_dictionary, train_sae

PROGRAM = """
import sys, torch
from clipattr.dictionaries import train_sae
torch.set_num_threads(1)
acts = torch.load(sys.argv[1], weights_only=True)
made = train_sae(acts, n_latents=64, k=4, steps=40, batch=64, dead_after=256, aux_k=8, precision="float32",
                 checkpoint=sys.argv[2] + ".checkpoint", progress=False)
import torch.distributed as group
if not group.is_initialized() or group.get_rank() == 0:
    made.save(sys.argv[2])
"""


def test_two_processes_make_the_dictionary_of_one(tmp_path):
    acts = torch.randn(512, 24, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 2, 24)
    torch.save(acts, tmp_path / "acts.pt")
    (tmp_path / "train.py").write_text(PROGRAM)
    arguments = [str(tmp_path / "train.py"), str(tmp_path / "acts.pt")]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, *arguments, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    two = load_dictionary(tmp_path / "two")
    one = train_sae(
        acts,
        n_latents=64,
        k=4,
        steps=40,
        batch=64,
        dead_after=256,
        aux_k=8,
        precision="float32",
        progress=False,
    )
    for name in ("decoder", "encoder", "encoder_bias", "bias"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=2e-3, atol=2e-4)
    assert two.info["fvu"] == pytest.approx(one.info["fvu"], rel=1e-3)
    assert two.info["dead"] == one.info["dead"]


def test_kinds_that_settle_over_a_batch_and_uneven_batches_are_refused(monkeypatch):
    from clipattr.dictionaries.parallel import Team
    from clipattr.errors import DictionaryError

    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    team = Team()
    with pytest.raises(DictionaryError, match="needs one process"):
        team.check("batchtopk", 64)
    with pytest.raises(DictionaryError, match="divided evenly among 2"):
        team.check("topk", 63)
    x = torch.arange(8.0)[:, None]
    assert team.part(x).flatten().tolist() == [0, 2, 4, 6]
