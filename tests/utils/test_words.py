"""Laws of words: numbers keep their value and order, names say protocol and cutoff."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import METRIC_NAMES
from fedmm.utils.text import PROTOCOLS, in_bytes, in_time, listed, metric_words, probability, setting, share, signed


@given(st.floats(-2, 2))
def test_shares_and_differences_are_the_number_to_four_decimals(value):
    assert float(share(value)) == pytest.approx(value, abs=5.1e-5)
    text = signed(value)
    assert text[0] in "+\u2212"
    assert float(text.replace("\u2212", "-")) == pytest.approx(value, abs=5.1e-5)


@given(st.floats(0, 1))
def test_a_probability_is_never_rounded_to_nothing(p):
    text = probability(p)
    assert text == "<.0001" if p < 1e-4 else float(text) > 0


@given(st.floats(0, 1e13), st.floats(0, 1e13))
def test_bytes_and_times_keep_their_order_of_size(a, b):
    def size(text):
        number, unit = text.split()
        return float(number) * 1000 ** ("B", "kB", "MB", "GB", "TB").index(unit)

    assert size(in_bytes(a)) == pytest.approx(a, rel=0.06, abs=0.6)
    assert (size(in_bytes(a)) <= size(in_bytes(b)) * 1.001 + 1e-9) or a > b


def test_times():
    assert [in_time(s) for s in (0, 59.94, 59.96, 60, 3599.6, 7500)] == [
        "0.0 s", "59.9 s", "1 min 00 s", "1 min 00 s", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip


def test_every_metric_has_words_of_its_own():
    names = [f"{protocol}/{name}_at_{k}" for protocol in PROTOCOLS for name in METRIC_NAMES for k in (5, 10)]
    assert len({metric_words(name) for name in names}) == len(names)
    assert metric_words("val/full/ndcg_at_10") == metric_words("full/ndcg_at_10") == "NDCG@10, full ranking"


def test_settings_and_lists():
    assert [setting(v) for v in (None, True, 0.0, 0.1, 1e-3, 64, "a", (5, 10))] == [
        "none", "true", "0", "0.1", "0.001", "64", "a", "5, 10",
    ]  # fmt: skip
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
