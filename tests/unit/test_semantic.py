"""Embeddings, cells and pairs of records that say the same."""

import numpy as np
import pytest

from ftlib.config.prepare import PrepareConfig
from ftlib.core.errors import UserError
from ftlib.data.semantic import SCALE, Embedded, alike_pairs, check_model, embed, find_centres, nearest_centre
from ftlib.text.components import components


def clusters(num_clusters, size, dim=16, noise=0.05, seed=0):
    generator = np.random.default_rng(seed)
    directions = np.repeat(generator.normal(size=(num_clusters, dim)), size, axis=0)
    found = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    found = found + noise * generator.normal(size=found.shape)
    return np.rint(SCALE * found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.int16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small BERT with random weights and a vocabulary of words."""
    from tests.tiny_encoder import save_tiny_encoder

    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def test_pairs_against_brute_force():
    vectors = clusters(40, 15, dim=6, noise=0.1)
    rows = np.arange(len(vectors), dtype=np.uint64) * np.uint64(7)
    unit = vectors / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    edges, nearest = alike_pairs(Embedded(rows, vectors), 0.97)
    left, right = np.nonzero(cosine >= 0.97)
    expected = components(np.stack([rows[left], rows[right]], axis=1))
    for found, wanted in zip(components(edges), expected, strict=True):
        assert np.array_equal(found, wanted)
    assert len(left) and nearest == pytest.approx(cosine.max(axis=1))


def test_centres_find_clusters_and_are_the_same_each_time():
    vectors = clusters(4, 200)
    centres = find_centres(vectors, 4)
    assert np.array_equal(centres, find_centres(vectors.copy(), 4)) and centres.shape == (4, 16)
    cells = nearest_centre(vectors, centres)
    assert all(len(set(part)) == 1 for part in np.split(cells, 4))


def test_few_rows_make_one_cell():
    assert len(find_centres(clusters(1, 5), 50)) == 1
    assert not len(nearest_centre(np.empty((0, 16), dtype=np.int16), find_centres(clusters(1, 5), 1)))


def test_embeddings_depend_on_the_text_alone(encoder):
    texts = ["alpha beta gamma", "delta", "", "alpha beta gamma " * 400]
    found = embed(texts, encoder, 256)
    assert found.shape == (4, 32)
    assert np.linalg.norm(found.astype(float), axis=1) == pytest.approx(SCALE, rel=0.01)
    assert np.array_equal(embed(texts[::-1], encoder, 256)[::-1], found)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dedup\.semantic\.model .* is no encoder"):
        check_model(str(tmp_path))


def test_an_encoder_counts_by_its_content_and_not_by_its_place():
    def keys(model):
        return PrepareConfig.model_validate(
            {"input": {"paths": ["a"]}, "output": {"path": "b"}, "dedup": {"semantic": {"model": model}}}
        ).result_keys

    assert keys("/models/one") == keys("/models/two")
