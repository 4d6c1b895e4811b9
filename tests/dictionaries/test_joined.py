"""Joined dictionaries against known factors and slow formulas: which words get a latent, thresholds, directions."""

import tracemalloc

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.dictionaries import NestedTopK, load_dictionary
from clipattr.dictionaries.joined import (
    AT_ONCE,
    REFIT,
    SLACK,
    _directions,
    readings,
    told_joined,
    trained_size,
)
from clipattr.dictionaries.named import ONE_NAME, centred, one_name
from clipattr.errors import DictionaryError

WIDTH, OBJECTS, NOISE, ROWS = 24, 8, 6, 600


def world(seed=0):
    """Activations of pictures that show one or two of eight objects; words of these and of what activations ignore."""
    generator = torch.Generator().manual_seed(seed)
    shows = torch.zeros(ROWS, OBJECTS + NOISE)
    for first in (0, OBJECTS):  # an object, and independently of it something that leaves no trace
        number = torch.randint(0, OBJECTS if first == 0 else NOISE, (ROWS,), generator=generator)
        shows[torch.arange(ROWS), first + number] = 1
    acts = shows[:, :OBJECTS] @ torch.randn(OBJECTS, WIDTH, generator=generator) + 2
    acts += 0.1 * torch.randn(ROWS, WIDTH, generator=generator)
    words = torch.eye(OBJECTS + NOISE)
    names = [f"thing {i}" for i in range(OBJECTS)] + [f"nothing {i}" for i in range(NOISE)]
    return acts, shows + 0.01 * torch.randn(shows.shape, generator=generator), words, names, shows


@pytest.fixture(scope="module")
def made():
    acts, seen, words, names, _ = world()
    return ca.joined_dictionary(acts, seen, words, names, n_latents=32, k=2, steps=40, progress=False)


def test_words_that_activations_ignore_get_no_latent(made):
    assert made.info["named"] == [f"thing {i}" for i in range(OBJECTS)]
    assert made.sizes == [OBJECTS, 32] and made.active == [AT_ONCE, 2]


def test_each_named_latent_follows_its_object(made):
    acts, _, _, _, shows = world()
    codes = made.encode(acts).to_dense()[:, :OBJECTS]
    things = shows[:, :OBJECTS]
    assert (codes.argmax(1) == things.argmax(1)).float().mean() > 0.98
    # Named and trained latents share an object; named ones have a part of it.
    for thing in range(OBJECTS):
        there = things[:, thing] > 0
        adds = acts[there].mean(0) - acts.mean(0)
        assert float(made.decoder[thing] @ adds) > 0.5 * float(adds.norm())


def test_the_whole_is_one_dictionary(made, tmp_path):
    acts = world()[0]
    codes = made.encode(acts)
    torch.testing.assert_close(made.decode(codes) + made.error(acts, codes), acts)
    assert int(codes.counts().max()) <= made.k == AT_ONCE + 2
    made.save(tmp_path / "joined")
    again = load_dictionary(tmp_path / "joined")
    assert again.hash == made.hash and again.info["named"] == made.info["named"]
    assert told_joined(again)[0].startswith(
        f"joined: {OBJECTS} named latents for the {OBJECTS + NOISE} words"
    )


def test_a_word_may_be_active_in_twice_as_many_rows_as_show_it():
    acts, seen, words, names, shows = world()
    kept, encoder, bias, mean = readings(acts, seen, words, names)
    scores = (acts - mean) @ encoder.T
    for place, word in enumerate(kept):
        there = shows[:, word] > 0
        assert abs(int((scores[:, place] + bias[place] > 0).sum()) - SLACK * int(there.sum())) <= 2
        assert float(scores[there, place].mean()) == pytest.approx(1, abs=0.02)


def test_directions_are_the_ridge_regression_of_activations_on_codes():
    """A penalty is as good as extra rows: the same fit is least squares over stacked rows."""
    acts = world()[0]
    generator = torch.Generator().manual_seed(3)
    encoder, start = (torch.randn(12, WIDTH, generator=generator) for _ in range(2))
    encoder[5] = 0  # never active, and others are not either
    dictionary = NestedTopK(sizes=[4, 8], active=[2, 2], decoder=start, encoder=encoder)
    found, bias = _directions(acts, dictionary, start)
    codes, aims = dictionary.encode(acts).to_dense().double(), acts.double() - acts.double().mean(0)
    silent, centred = codes.sum(0) == 0, codes - codes.mean(0)
    penalty = (REFIT * centred.square().mean(0).mean() * len(acts)).sqrt() * torch.eye(
        12, dtype=torch.float64
    )
    stacked = torch.cat([aims, torch.zeros(12, WIDTH, dtype=torch.float64)])
    expected = torch.linalg.lstsq(torch.cat([centred, penalty]), stacked).solution
    expected[silent] = start[silent].double()
    assert silent[5] and int(silent.sum()) < 8
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    remade = codes @ found.double() + bias
    torch.testing.assert_close(remade.mean(0), acts.double().mean(0), atol=1e-4, rtol=1e-4)


def test_names_of_one_object_share_a_latent():
    acts, seen, words, names, _ = world()
    twice = torch.cat([words, words[:2] + 0.01])
    made = readings(acts, seen, twice, [*names, "a thing 0", "thing one"])[0]
    assert made == list(range(OBJECTS))  # the shortest, then the first in order of the alphabet


def test_names_that_are_near_join_a_shorter_one_that_stands_for_itself():
    """Against a search over all pairs, one name after the other."""
    draw = np.random.default_rng(3)
    n = 1200  # more than one block of `one_name`
    towards = torch.from_numpy(draw.normal(size=(90, 12)))[draw.integers(90, size=n)]
    texts = centred(towards + 0.12 * torch.from_numpy(draw.normal(size=(n, 12))))
    words = ["".join(draw.choice(list("abc"), draw.integers(1, 9))) for _ in range(n)]
    ids = [None if number % 3 else f"id {draw.integers(60)}" for number in range(n)]
    near = (texts @ texts.T >= ONE_NAME).tolist()
    stands: dict[int, int] = {}
    for number in sorted(range(n), key=lambda number: (len(words[number]), words[number], number)):
        for other in range(n):
            same = near[number][other] or (ids[number] is not None and ids[number] == ids[other])
            if stands.get(number, number) == number and other not in stands and (same or other == number):
                stands[other] = number
    assert one_name(words, texts, ids=ids).tolist() == [stands[number] for number in range(n)]
    assert 60 < len(set(stands.values())) < n / 2


def test_thousands_of_words_that_an_evaluator_takes_for_one_need_little_memory():
    tracemalloc.start()
    stands = one_name([f"word {number:04d}" for number in range(3000)], torch.ones(3000, 4))
    assert stands.unique().tolist() == [0] and tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_without_a_word_that_activations_hold_it_is_trained_alone():
    acts, _, words, names, _ = world()
    noise = torch.randn(ROWS, len(names), generator=torch.Generator().manual_seed(5))
    made = ca.joined_dictionary(acts, noise, words, names, n_latents=16, k=2, steps=3, progress=False)
    assert made.kind == "topk" and made.info["named"] == []
    assert told_joined(made) == [f"trained alone: the activations hold none of the {len(names)} words asked."]


def test_sizes_and_wrong_input():
    assert trained_size(768, 10**6) == (6144, 64) and trained_size(16, 100)[0] == 25
    acts, seen, words, names, _ = world()
    with pytest.raises(DictionaryError, match="one embedding per row"):
        ca.joined_dictionary(acts, seen[:5], words, names)
    assert told_joined(ca.neurons(4)) == []
    assert np.isfinite(acts.numpy()).all()
