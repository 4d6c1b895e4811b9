"""The activation store holds what the model computes, and survives interruption."""

import hashlib
import json

import numpy as np
import pytest
import torch

from clipattr.dictionaries import train_sae
from clipattr.errors import DataError, DictionaryError
from clipattr.sites import activations
from clipattr.storage.activations import ActivationStore
from clipattr.storage.orders import block_orders, gather
from clipattr.studies.encode import collect_activations

PICTURES = 22


@pytest.fixture(scope="module")
def pictures():
    return [np.random.default_rng(i).integers(0, 256, (40, 36, 3), dtype=np.uint8) for i in range(PICTURES)]


def collect(model, pictures, path, site="image.-1.cls", **options):
    settings = {"batch": 4, "shard_pictures": 8, "progress": False, "dtype": "float32", **options}
    return collect_activations(model, pictures, site, path, **settings)


def contents(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_rows_are_the_activations_of_the_pictures_in_order(tiny_model, pictures, tmp_path):
    store = collect(tiny_model, pictures, tmp_path, ["image.-1.cls", "image.-2.patches"])
    pixels = torch.stack([tiny_model.prepare(picture) for picture in pictures])
    torch.testing.assert_close(
        store.read(0, PICTURES), activations(tiny_model, pixels, "image.-1.cls").float()
    )
    patches = store.at("image.-2.patches")
    assert (len(patches), patches.tokens, patches.width) == (PICTURES * 16, 16, 64)
    expected = activations(tiny_model, pixels, "image.-2.patches").flatten(0, 1)
    torch.testing.assert_close(patches.read(100, 200), expected[100:200].float())
    assert store.complete and store.places.tolist() == list(range(PICTURES))
    assert patches.places.tolist() == np.repeat(np.arange(PICTURES), 16).tolist()
    store.check()


def test_a_store_interrupted_anywhere_ends_with_the_same_bytes(tiny_model, pictures, tmp_path, monkeypatch):
    collect(tiny_model, pictures, tmp_path / "whole")
    original = ActivationStore.write_shard
    for crash_at in range(3):

        def crashing(self, *given, number, crash_at=crash_at, **rest):
            if number == crash_at:
                # What a kill in the middle leaves behind.
                (self.path / "image.-1.cls" / f"{crash_at:05d}.bin.partial").write_bytes(b"half")
                raise KeyboardInterrupt
            original(self, *given, number=number, **rest)

        monkeypatch.setattr(ActivationStore, "write_shard", crashing)
        with pytest.raises(KeyboardInterrupt):
            collect(tiny_model, pictures, tmp_path / str(crash_at))
        monkeypatch.setattr(ActivationStore, "write_shard", original)
        assert not ActivationStore.open(tmp_path / str(crash_at)).complete
        collect(tiny_model, pictures, tmp_path / str(crash_at))
        assert contents(tmp_path / str(crash_at)) == contents(tmp_path / "whole")


def test_a_store_of_something_else_is_not_mixed_in(tiny_model, pictures, tmp_path):
    collect(tiny_model, pictures, tmp_path)
    with pytest.raises(DataError, match="fingerprint: .* there, .* asked"):
        collect(tiny_model, pictures[:-1] + [pictures[0] // 2], tmp_path)
    with pytest.raises(DataError, match="batch: 4 there, 8 asked"):
        collect(tiny_model, pictures, tmp_path, batch=8)
    with pytest.raises(DataError, match="already holds a store"):
        collect(tiny_model, pictures, tmp_path, resume=False)
    with pytest.raises(DataError, match=r"no activations at 'image\.0\.cls'; its sites are image\.-1\.cls"):
        ActivationStore.open(tmp_path, "image.0.cls")


def test_shuffled_batches_are_a_permutation_that_seed_and_epoch_decide(tiny_model, pictures, tmp_path):
    store = collect(tiny_model, pictures, tmp_path, "image.0.patches")
    key = store.read(0, len(store))[:, 0]
    batches = list(store.shuffled(32, seed=1, epoch=0))
    seen = torch.cat(batches)[:, 0]
    assert torch.equal(seen.sort().values, key.sort().values)
    again = list(store.shuffled(32, seed=1, epoch=0, start=3))
    assert all(torch.equal(a, b) for a, b in zip(batches[3:], again, strict=True))
    other = torch.cat(list(store.shuffled(32, seed=1, epoch=1)))[:, 0]
    assert not torch.equal(seen, other)


@pytest.mark.parametrize("batch", [1, 5, 32, 100])
def test_block_orders_give_every_row_once_and_can_be_entered_anywhere(batch):
    starts = np.array([0, 50, 50, 57, 157])  # shards of 50, 0, 7 and 100 rows
    orders = list(block_orders(starts, batch, seed=3, epoch=2, block=8))
    assert len(orders) == 157 // batch
    rows = [starts[shard] + row for pieces in orders for shard, a, z in pieces for row in range(a, z)]
    assert len(rows) == len(set(rows)) == 157 // batch * batch
    assert all(sum(z - a for _, a, z in pieces) == batch for pieces in orders)
    assert all(0 < z - a <= 8 for pieces in orders for _, a, z in pieces)
    assert orders != list(block_orders(starts, batch, seed=3, epoch=3, block=8))


def test_a_store_mixed_on_writing_holds_the_same_rows_and_says_where_each_comes_from(
    tiny_model, pictures, tmp_path, monkeypatch
):
    sites = ["image.-1.cls", "image.-2.patches"]
    plain = collect(tiny_model, pictures, tmp_path / "plain", sites)
    store = collect(tiny_model, pictures, tmp_path / "mixed", sites, shuffle=5)
    assert store.places.tolist() != list(range(PICTURES)) and sorted(store.places) == list(range(PICTURES))
    torch.testing.assert_close(store.read(0, PICTURES), plain.read(0, PICTURES)[store.places])
    patches = store.at("image.-2.patches")
    rows = torch.from_numpy(patches.places * patches.tokens + patches.token_numbers)
    assert sorted(rows.tolist()) == list(range(PICTURES * 16))
    everything = plain.at("image.-2.patches").read(0, PICTURES * 16)
    torch.testing.assert_close(patches.read(0, len(patches)), everything[rows])
    # Blocks of whole rows, several to a batch.
    monkeypatch.setattr("clipattr.storage.activations.BLOCK_BYTES", 10 * 64 * 4)
    batches = list(patches.shuffled(44, seed=1))
    assert torch.equal(
        torch.cat(batches)[:, 0].sort().values, patches.read(0, len(patches))[:, 0].sort().values
    )
    again = list(patches.shuffled(44, seed=1, start=5))
    assert len(again) == 3 and all(torch.equal(a, b) for a, b in zip(batches[5:], again, strict=True))
    with pytest.raises(DataError, match="shuffle: 5 there, None asked"):
        collect(tiny_model, pictures, tmp_path / "mixed", sites)


def test_a_mixed_store_with_unreadable_pictures_resumes_to_the_same_bytes(tiny_model, pictures, tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures[:20]):
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    (folder / "04.png").write_text("not a picture")
    whole = collect(tiny_model, folder, tmp_path / "a", "image.0.all", shuffle=2)
    collect(tiny_model, folder, tmp_path / "b", "image.0.all", shuffle=2)
    for record in ("00001.json", "00002.json"):
        (tmp_path / "b" / record).unlink()
    again = collect(tiny_model, folder, tmp_path / "b", "image.0.all", shuffle=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert again.skipped == whole.skipped and [name for name, _ in whole.skipped] == ["04.png"]
    pixels = torch.stack([tiny_model.prepare(picture) for picture in pictures[:20]])
    true = activations(tiny_model, pixels, "image.0.all").float()
    torch.testing.assert_close(whole.read(0, len(whole)), true[whole.places, whole.token_numbers])


def test_the_pooled_output_is_kept_beside_other_sites(tiny_model, pictures, tmp_path):
    store = collect(tiny_model, pictures, tmp_path, ["image.pooled", "image.-1.cls"])
    pixels = torch.stack([tiny_model.prepare(picture) for picture in pictures])
    torch.testing.assert_close(store.read(0, PICTURES), tiny_model.encode_image(pixels).float())
    assert (store.site, store.width, store.tokens) == ("image.pooled", 48, 1)
    cls = ActivationStore.open(tmp_path, "image.-1.cls")
    torch.testing.assert_close(
        cls.at("image.-1.cls").read(3, 9), activations(tiny_model, pixels[3:9], "image.-1.cls").float()
    )
    assert cls.at("image.pooled").width == 48


def test_an_empty_store_is_refused_before_training(tiny_model, tmp_path):
    store = ActivationStore.create(tmp_path, tiny_model, {"image.-1.cls": (64,)}, pictures=8, fingerprint="x")
    with pytest.raises(DictionaryError, match="needs activations"):
        train_sae(store, n_latents=80, k=2, steps=1, progress=False)


def test_shapes_that_do_not_fit_are_refused(tiny_model, tmp_path):
    store = ActivationStore.create(
        tmp_path, tiny_model, {"image.-1.cls": (64,)}, pictures=8, fingerprint="x", batch=4, shard_pictures=4
    )
    with pytest.raises(DataError, match=r"must be 64 wide; got shape \(8, 32\)"):
        store.write_shard({"image.-1.cls": torch.zeros(8, 32)}, [], number=0)
    with pytest.raises(DataError, match="needs 4 rows; got 3"):
        store.write_shard({"image.-1.cls": torch.zeros(3, 64)}, [], number=0)


def test_a_bad_value_on_disk_names_file_and_row(tiny_model, pictures, tmp_path):
    collect(tiny_model, pictures, tmp_path)
    file, record = tmp_path / "image.-1.cls" / "00001.bin", tmp_path / "00001.json"
    acts = np.fromfile(file, "<f4").reshape(-1, 64)
    acts[3, 9] = np.inf
    acts.tofile(file)
    told = json.loads(record.read_text())
    told.pop("sum", None)  # the record's own checksum
    told["files"]["image.-1.cls"]["sha256"] = hashlib.sha256(acts.data).hexdigest()
    record.write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"00001\.bin holds NaN or infinite values, first in row 3"):
        ActivationStore.open(tmp_path).check()
    with pytest.raises(DictionaryError, match=r"store.check\(\) names the shard and row"):
        train_sae(ActivationStore.open(tmp_path), n_latents=80, k=2, steps=1, progress=False)


def test_unreadable_pictures_are_skipped_listed_and_leave_no_row(tiny_model, pictures, tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures[:9]):
        Image.fromarray(picture).save(folder / f"{number}.png")
    (folder / "4.png").write_text("not a picture")
    store = collect(tiny_model, folder, tmp_path / "store")
    assert len(store) == 8 and store.complete
    assert [name for name, _ in store.skipped] == ["4.png"]
    assert store.places.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert len(ActivationStore.open(tmp_path / "store").read(0, 8)) == 8


def test_damage_is_found_and_named(tiny_model, pictures, tmp_path):
    store = collect(tiny_model, pictures, tmp_path)
    file = tmp_path / "image.-1.cls" / "00001.bin"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"00001\.bin is missing or damaged"):
        store.check()
    file.write_bytes(data[:-3])
    with pytest.raises(DataError, match="missing or cut short"):
        ActivationStore.open(tmp_path).read(0, PICTURES)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        ActivationStore.open(tmp_path)


@pytest.mark.parametrize(("value", "advice"), [(float("nan"), "check the model"), (1e5, "float32")])
def test_values_that_float16_cannot_hold_name_shard_and_row(tiny_model, tmp_path, value, advice):
    store = ActivationStore.create(
        tmp_path, tiny_model, {"image.-1.cls": (64,)}, pictures=8, fingerprint="x", batch=4, shard_pictures=4
    )
    acts = torch.zeros(4, 64)
    store.write_shard({"image.-1.cls": acts}, [], number=0)
    acts[2, 7] = value
    with pytest.raises(DataError, match=f"shard 1, row 2: .*{advice}"):
        store.write_shard({"image.-1.cls": acts}, [], number=1)
    assert sorted(f.name for f in (tmp_path / "image.-1.cls").iterdir()) == ["00000.bin"]


def test_a_full_disk_leaves_whole_shards_only(tiny_model, tmp_path, monkeypatch):
    store = ActivationStore.create(
        tmp_path, tiny_model, {"image.-1.cls": (64,)}, pictures=4, fingerprint="x", batch=4
    )

    class Full(np.ndarray):
        def tofile(self, file, *args):
            file.write_bytes(b"some of it")
            raise OSError(28, "No space left on device")

    original = torch.Tensor.numpy
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self, *a, **k: original(self, *a, **k).view(Full))
    with pytest.raises(DataError, match="No space left on device.*free space and resume"):
        store.write_shard({"image.-1.cls": torch.zeros(4, 64)}, [], number=0)
    assert not list((tmp_path / "image.-1.cls").iterdir())


def test_a_second_writer_is_refused_and_the_lock_does_not_outlive_its_owner(tiny_model, pictures, tmp_path):
    store = collect(tiny_model, pictures, tmp_path)
    with store.writing(), pytest.raises(DataError, match="Another process is writing"):
        collect(tiny_model, pictures, tmp_path)
    collect(tiny_model, pictures, tmp_path)


def test_the_manifest_says_what_the_store_is_made_of(tiny_model, pictures, tmp_path):
    collect(tiny_model, pictures, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["model_hash"] == tiny_model.weights_hash
    assert manifest["preprocess"] == tiny_model.preprocess_id
    assert manifest["sites"] == {"image.-1.cls": {"tokens": 1, "width": 64}}


def test_rows_outside_the_store_are_refused(tiny_model, pictures, tmp_path):
    store = collect(tiny_model, pictures, tmp_path)
    with pytest.raises(DataError, match="Rows 0 to 23 .* the store has 22"):
        store.read(0, 23)


@pytest.mark.parametrize("width", [8, 7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gathered_rows_are_the_rows_asked_for(width, dtype):
    table = torch.randn(900, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    which = torch.arange(899, -1, -3)
    out = torch.empty(len(which), width)
    gather(table, which, out)
    assert torch.equal(out, table[which].float())
