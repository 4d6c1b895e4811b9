"""Jobs: every long verb on a small scale, each in a process of its own that may be killed, starved or lied to.

Owns the small model, the pictures and the verbs, and one way to run a verb under a fault. Children are forked from a
server that has imported everything once, so a fault costs about a second. Start at `run`.
"""

import hashlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

import clipattr
import clipattr.models.loading
import clipattr.studies.build
import clipattr.studies.gathering
from clipattr.attribution.streaming import stream
from clipattr.discovery.audit.run import Settings
from clipattr.errors import ClipattrError

WORDS = ["red", "green", "blue", "night", "a <b>striped</b> thing"]
PICTURES = 60
VERBS = ("study", "encode", "train", "attribute", "audit")
DONE, REFUSED, FAULT = 0, 2, 70
clipattr.studies.gathering.SHARD, clipattr.studies.build.BLOCK, clipattr.studies.build.PART = 10, 16, 24


def small_clip(width, embed, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = open_clip.model.CLIP(
            embed_dim=embed,
            vision_cfg={"image_size": 32, "patch_size": 16, "width": width, "layers": 2, "head_width": 16},
            text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
        )
    return clipattr.load_model(clip)


def paint(folder):
    """Pictures of noise in three colours, one of them broken."""
    folder.mkdir(parents=True)
    for index in range(PICTURES):
        noise = np.random.default_rng(index).integers(-60, 60, (6, 6, 1))
        base = np.array([[220, 30, 30], [30, 200, 40], [30, 40, 220]][index % 3])
        Image.fromarray((noise + base).clip(0, 255).astype(np.uint8)).resize((48, 40)).save(
            folder / f"{index:02d}.png"
        )
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    return folder


MODEL, EVALUATOR = small_clip(48, 24, 0), small_clip(32, 32, 7)


def prepare(root):
    """What the verbs read: pictures, a finished store and a finished dictionary."""
    torch.set_num_threads(1)
    pictures = paint(root / "pictures")
    store = encode(root, root / "store")
    clipattr.train_sae(
        clipattr.ActivationStore.open(root / "store"), n_latents=32, k=4, steps=20, batch=16, progress=False
    ).save(root / "sae")
    study(root, root / "study")
    return pictures, store


def study(root, out, engine=None):
    clipattr.build_study(
        MODEL, root / "pictures", path=out, vocabulary=WORDS, evaluator=EVALUATOR, n_latents=32, k=4, examples=5,
        training={"steps": 60, "batch": 16, "checkpoint_every": 5}, batch=4, workers=1, holdout=0.2, progress=False,
        engine=engine,
    )  # fmt: skip


def encode(root, out, engine=None):
    clipattr.collect_activations(
        MODEL,
        root / "pictures",
        ["image.-1.cls", "image.-2.cls"],
        out,
        batch=4,
        shard_pictures=8,
        progress=False,
        engine=engine,
    )


def train(root, out):
    store = clipattr.ActivationStore.open(root / "store")
    made = clipattr.train_sae(
        store, n_latents=32, k=4, steps=100, batch=16, checkpoint=out.with_name(out.name + ".checkpoint"),
        checkpoint_every=4, progress=False,
    )  # fmt: skip
    made.save(out)


def opened(root):
    return clipattr.open_study(root / "study", model=MODEL, evaluator=EVALUATOR)


def attribute(root, out):
    study = opened(root)
    stream(study, study.images, clipattr.Similarity("red"), out, batch=4, shard=8)


def audit(root, out):
    """A page and its numbers; thresholds of 0, since a model of noise relies on nothing much."""
    out.mkdir(exist_ok=True)
    low = Settings(
        least_effect=0,
        least_rise=0,
        least_difference=-1,
        discovery_rate=2,
        passes=-9,
        part_effect=-9,
        by_text=9,
        few=2,
    )
    kept = out.with_name(out.name + ".checkpoint")
    found = clipattr.audit(opened(root), WORDS, settings=low, progress=False, checkpoint=kept)
    found.to_json(out / "audit.json")
    found.report(out / "audit.html")


JOBS = {
    "study": study,
    "encode": encode,
    "train": train,
    "attribute": attribute,
    "audit": audit,
}


@dataclass(frozen=True)
class Setting:
    """What a child's world is like.

    limit: bytes that a file may have, as on a full disk; clock: seconds that every clock is off, more with each look;
    memory: pictures at a time that memory suffices for.
    """

    limit: int | None = None
    clock: float = 0.0
    memory: int | None = None


def child(verb, root, out, said, setting):
    """One verb in one process; the exit status says how it ended, the pipe what it said."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if setting.limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (setting.limit, setting.limit))
    if setting.clock:
        real, looks = time.time, iter(range(10**9))
        time.time = lambda: real() + setting.clock * (1 + next(looks))
        time.time_ns = lambda: int(time.time() * 1e9)
    if setting.memory is not None:
        whole = clipattr.models.loading.Model.encode_image

        def poor(model, pixels, *rest, **options):
            if len(pixels) > setting.memory:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return whole(model, pixels, *rest, **options)

        clipattr.models.loading.Model.encode_image = poor
    status = DONE
    try:
        try:
            JOBS[verb](root, out)
        except ClipattrError as error:
            said.send(f"{type(error).__name__}: {error}")
            status = REFUSED
        except Exception as error:
            said.send(f"{type(error).__name__}: {error}")
            status = FAULT
        said.close()
    except KeyboardInterrupt:  # wherever it comes, also when all is done
        status = 130
    os._exit(status)


def server():
    """A context whose children begin with everything imported."""
    here = str(Path(__file__).parent)
    if here not in sys.path:
        sys.path.insert(0, here)
    if here not in os.environ.get("PYTHONPATH", ""):  # the server itself goes by nothing else
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jobs"])
    return context


def start(verb, root, out, setting=Setting()):  # noqa: B008 (frozen)
    listen, said = server().Pipe(duplex=False)
    process = server().Process(target=child, args=(verb, root, out, said, setting))
    process.start()
    said.close()
    return process, listen


def finish(process, listen):
    """(exit status, what it said)."""
    process.join(300)
    text = ""
    if listen.poll():
        try:
            text = listen.recv()
        except EOFError:
            text = ""
    return process.exitcode, text


def run(verb, root, out, setting=Setting()):  # noqa: B008 (frozen)
    return finish(*start(verb, root, out, setting))


def digests(out):
    """What a verb left: relative name -> hash; locks, and checkpoints of a finished training, are none of it."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


# Faults: each leaves the world as a fault leaves it and says what the next run must do; `seconds` is how long the
# verb takes undisturbed.


def killed(verb, root, out, chance, seconds, how=signal.SIGKILL):
    process, listen = start(verb, root, out)
    time.sleep(chance.random() * seconds)
    if process.is_alive():
        os.kill(process.pid, how)
    status, text = finish(process, listen)
    assert status in (DONE, -how, 130), (status, text)


def cancelled(verb, root, out, chance, seconds):
    killed(verb, root, out, chance, seconds, signal.SIGINT)


def terminated(verb, root, out, chance, seconds):
    killed(verb, root, out, chance, seconds, signal.SIGTERM)


def full_disk(verb, root, out, chance, seconds):
    status, text = run(verb, root, out, Setting(limit=chance.choice([0, 64, 500, 2000, 8000, 20_000])))
    assert status in (DONE, REFUSED), (status, text)
    if status == REFUSED:
        assert "could not be written" in text or "space" in text or "too large" in text, text


def clock_back(verb, root, out, chance, seconds):
    killed(verb, root, out, chance, seconds)
    for path in [*root.rglob("*"), *out.parent.rglob("*")]:
        if chance.random() < 0.5 and path.exists() and root / "pictures" not in path.parents:
            os.utime(path, (0, chance.choice([0, 2**31, 4_000_000_000])))
    status, text = run(verb, root, out, Setting(clock=-1e5))
    assert status == DONE, text


def bit_flip(verb, root, out, chance, seconds):
    killed(verb, root, out, chance, seconds)
    file = some_file(out, chance)
    if file is not None:
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(bytes(data))


def cut_short(verb, root, out, chance, seconds):
    killed(verb, root, out, chance, seconds)
    file = some_file(out, chance)
    if file is not None:
        file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def unreadable(verb, root, out, chance, seconds):
    """A file of the unfinished work that no reading succeeds on, as on a failing disk: a folder of its name."""
    killed(verb, root, out, chance, seconds)
    file = some_file(out, chance)
    if file is not None:
        file.unlink()
        file.mkdir()


def little_memory(verb, root, out, chance, seconds):
    """Memory for one or two pictures at a time: the result is noted, and the same but for last digits."""
    if verb not in ("study", "encode"):
        killed(verb, root, out, chance, seconds)
        return
    poor = out.with_name("poor")
    status, text = run(verb, root, poor, Setting(memory=chance.choice([1, 2])))
    assert status == DONE, text
    whole, halved = root / f"{verb}-good" / "out", poor
    if verb == "study":
        pair = [np.load(place / "activations.npy") for place in (whole, halved)]
        said = (halved / "study.json").read_text()
    else:
        pair = [clipattr.ActivationStore.open(place) for place in (whole, halved)]
        said = " ".join(pair[1].notes)
        pair = [store.read(0, len(store)).numpy() for store in pair]
    assert "did not fit into memory" in said
    np.testing.assert_allclose(*pair, atol=2e-3)


def two_at_once(verb, root, out, chance, seconds):
    both = [start(verb, root, out) for _ in range(2)]
    ends = [finish(*one) for one in both]
    for status, text in ends:
        assert status == DONE or (status == REFUSED and "nother" in text), (status, text)
    assert DONE in [status for status, _ in ends]


FAULTS = {
    "kill -9": killed,
    "kill": terminated,
    "cancelled cell": cancelled,
    "full disk": full_disk,
    "clock going back": clock_back,
    "bit flip": bit_flip,
    "file cut short": cut_short,
    "unreadable file": unreadable,
    "little memory": little_memory,
    "two jobs at once": two_at_once,
}


def some_file(out, chance):
    """A file of a verb's unfinished work."""
    folders = [out.with_name(out.name + end) for end in ("", ".building", ".checkpoint")]
    files = [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    return chance.choice(files) if files else None


def survives(verb, fault, root, reference, seconds, seed):
    """Run a verb under a fault, then again as its message says, and compare with the undisturbed result.

    Returns:
        what the second run said where it refused first, else "".
    """
    chance = random.Random(seed)
    place = root / f"{verb}-{seed}"
    place.mkdir()
    out = place / "out"
    try:
        FAULTS[fault](verb, root, out, chance, seconds)
        status, text = run(verb, root, out)
        told = ""
        for _ in range(3):
            if (
                status != REFUSED
            ):  # damage that cannot be mended without asking: the message names what to delete
                break
            assert str(place) in text, text
            told = text
            advised = re.search(r"delete '?([^\s':;,]+)", text)
            named = [
                path for path in sorted(place.rglob("*"), key=lambda p: -len(str(p))) if str(path) in text
            ]
            path = Path(advised[1]) if advised and place in Path(advised[1]).parents else named[0]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            status, text = run(verb, root, out)
        assert status == DONE, (status, told, text)
        found = digests(out)
        wrong = [name for name in reference.keys() | found.keys() if reference.get(name) != found.get(name)]
        assert not wrong, (wrong, told)
        return told
    finally:
        shutil.rmtree(place, ignore_errors=True)
