"""Models of transformers against the library's own embeddings, from folders and as loaded modules."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr import ModelError, SiteError

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
WORDS = ("<pad>", "<unk>", "<eos>", "a", "red", "kite", "dog", "bat")
MARKS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
TEXT = {**SMALL, **MARKS, "vocab_size": len(WORDS), "max_position_embeddings": 16}
PATCHES = {**SMALL, "image_size": 32, "patch_size": 8}
SQUARE = {"height": 32, "width": 32}
TEXTS = ["a red kite", "dog"]


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    )


def build(kind):
    """A small random model of one kind and its image processor."""
    torch.manual_seed(0)
    crop = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=TEXT, vision_config=PATCHES, projection_dim=24)
        return transformers.CLIPModel(config).eval(), crop
    if kind == "altclip":
        text = TEXT | {"max_position_embeddings": 90, "project_dim": 20}
        config = transformers.AltCLIPConfig(text_config=text, vision_config=PATCHES, projection_dim=24)
        return transformers.AltCLIPModel(config).eval(), crop
    if kind == "siglip":
        config = transformers.SiglipConfig(text_config=TEXT, vision_config=PATCHES)
        return transformers.SiglipModel(config).eval(), transformers.SiglipImageProcessor(size=SQUARE)
    config = transformers.Siglip2Config(
        text_config=TEXT, vision_config=SMALL | {"num_patches": 16, "patch_size": 8}
    )
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    return transformers.Siglip2Model(config).eval(), processor


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder in transformers' format per kind, with the module and processor that are in it."""
    found = {}
    for kind in ("clip", "altclip", "siglip", "siglip2"):
        folder = tmp_path_factory.mktemp("hf") / kind
        module, processor = build(kind)
        module.save_pretrained(folder)
        processor.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        found[kind] = (folder, module, processor)
    return found


@pytest.fixture(scope="module")
def pictures():
    # Neither is square, so that cropping and the grids of variable resolution show.
    rng = np.random.default_rng(0)
    sizes = ((40, 56), (64, 33))
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]


def own_embeddings(folder, kind, module, processor, pictures):
    """What the library itself makes of pictures and texts, unit length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind.startswith("siglip") else True
    tokens = tokenizer(TEXTS, padding=padding, max_length=16, truncation=True, return_tensors="pt")
    given = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
    with torch.no_grad():
        seen = module.get_image_features(**processor(images=pictures, return_tensors="pt")).pooler_output
        read = module.get_text_features(**given).pooler_output
    return torch.nn.functional.normalize(seen, dim=-1), torch.nn.functional.normalize(read, dim=-1)


@pytest.mark.parametrize("kind", ("clip", "altclip", "siglip", "siglip2"))
def test_embeddings_from_a_folder_are_the_librarys_own(kind, folders, pictures):
    folder, module, processor = folders[kind]
    seen, read = own_embeddings(folder, kind, module, processor, pictures)
    model = ca.load_model(f"hf:{folder}")
    pixels = torch.stack([model.prepare(picture) for picture in pictures])
    assert (model.encode_image(pixels) - seen).abs().max() < 1e-5
    assert (model.encode_text(TEXTS) - read).abs().max() < 1e-5
    assert model.embed_dim == seen.shape[1] and model.reference == f"hf:{folder.resolve()}"


@pytest.mark.parametrize("kind", ("clip", "siglip", "siglip2"))
def test_a_loaded_module_gives_what_the_folder_gives(kind, folders, pictures):
    folder, module, processor = folders[kind]
    named = ca.load_model(f"local-dir:{folder}")
    held = ca.load_model(module, preprocess=processor, tokenizer=make_tokenizer())
    pixels = torch.stack([named.prepare(picture) for picture in pictures])
    assert torch.equal(pixels, torch.stack([held.prepare(picture) for picture in pictures]))
    torch.testing.assert_close(held.encode_image(pixels), named.encode_image(pixels))
    assert held.weights_hash == named.weights_hash and held.preprocess_id == named.preprocess_id


def test_sites_continue_to_the_embedding_and_the_class_token_has_a_closed_form(folders, pictures):
    for kind in ("clip", "altclip", "siglip"):
        model = ca.load_model(f"hf:{folders[kind][0]}")
        pixels = torch.stack([model.prepare(picture) for picture in pictures])
        whole = model.encode_image(pixels)
        for site in ("image.-2.all", "image.-1.all", "image.embedding"):
            acts = ca.activations(model, pixels, site)
            torch.testing.assert_close(ca.continue_from(model, site, acts), whole, atol=1e-6, rtol=0)
        closed = "image.-1.patches" if kind == "siglip" else "image.-1.cls"
        assert (model.tail(closed) is None) == (kind == "siglip")
        other = ca.load_model(model, dtype=torch.float64)
        assert other.encode_image(pixels).dtype == torch.float64


def test_variable_resolution_has_the_embedding_as_its_site(folders, pictures):
    model = ca.load_model(f"hf:{folders['siglip2'][0]}")
    pixels = torch.stack([model.prepare(picture) for picture in pictures])
    acts = ca.activations(model, pixels, "image.embedding")
    torch.testing.assert_close(ca.continue_from(model, "image.embedding", acts), model.encode_image(pixels))
    with pytest.raises(SiteError, match=r"image\.embedding.*exists for every model"):
        ca.activations(model, pixels, "image.-1.patches")


def test_texts_that_are_cut_are_warned_of(folders):
    model = ca.load_model(f"hf:{folders['clip'][0]}")
    with pytest.warns(UserWarning, match="longer than the 16 tokens"):
        model.encode_text(["kite " * 20])


def test_a_module_without_processor_is_refused_with_what_to_pass(folders):
    with pytest.raises(ModelError, match=r"pass preprocess= its processor.*hf:NAME"):
        ca.load_model(folders["clip"][1])
    model = ca.load_model(folders["clip"][1], preprocess=folders["clip"][2])
    with pytest.raises(ModelError, match="pass load_model"):
        model.encode_text(["kite"])


def test_a_missing_library_is_named_with_its_extra(monkeypatch, folders):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"not installed: pip install 'clipattr\[hf\]'"):
        ca.load_model(f"hf:{folders['clip'][0]}")
    with pytest.raises(ModelError, match=r"text tower of roberta-ViT-B-32:laion2b.*clipattr\[hf\]"):
        monkeypatch.setattr("open_clip.download_pretrained", lambda *given, **named: "")
        ca.load_model("roberta-ViT-B-32:laion2b_s12b_b32k")


def test_incomplete_weights_are_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    folders["clip"][1].save_pretrained(folder)
    folders["clip"][2].save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: part for name, part in tensors.items() if "layers.1" not in name}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"weights are incomplete.*layers\.1"):
        ca.load_model(f"hf:{folder}")


@pytest.mark.parametrize(
    ("change", "told"),
    (
        ({"auto_map": {"AutoModel": "evil.Model"}}, "run code that comes with its weights"),
        ({"model_type": "unheard-of"}, "describes no known model"),
        ({"projection_dim": 10**9}, "projection_dim must lie between"),
    ),
)
def test_a_configuration_that_cannot_be_trusted_is_refused(change, told, folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(folders["clip"][1].config.to_dict() | change))
    with pytest.raises(ModelError, match=told):
        ca.load_model(f"hf:{tmp_path}")


def test_a_model_with_one_tower_is_refused(tmp_path, folders):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(**sizes, vocab_size=8)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertModel, which does not embed pictures and texts"):
        ca.load_model(f"hf:{tmp_path}")


def test_wrapped_modules_and_projections_of_several_layers_are_read(pictures):
    module, processor = build("clip")
    how = {"preprocess": processor, "tokenizer": make_tokenizer()}
    wrapped = ca.load_model(torch.nn.DataParallel(module), **how)
    assert wrapped.weights_hash == ca.load_model(module, **how).weights_hash
    module.visual_projection = torch.nn.Sequential(
        torch.nn.Linear(32, 40), torch.nn.ReLU(), torch.nn.Linear(40, 24)
    )
    assert ca.load_model(module, **how).embed_dim == 24  # GroupViT's form


def test_other_layouts_and_processors_of_other_models_are_errors_with_advice(pictures):
    module, _ = build("clip")
    wide = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    model = ca.load_model(module, preprocess=wide, tokenizer=make_tokenizer())
    with pytest.raises(ModelError, match=r"\(3, 64, 64\).*processor that belongs to the model"):
        model.encode_image(model.prepare(pictures[0])[None])
    del module.vision_model
    with pytest.raises(ModelError, match="not built like CLIP or SigLIP"):
        ca.load_model(module, preprocess=wide, tokenizer=make_tokenizer())
