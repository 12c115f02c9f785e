"""Item attributes: both kinds of files mean the same, what is wrong is named, nothing is made up."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmm.data.attributes import load_attributes
from fedmm.errors import DataError

ITEMS = np.array(["", "a", "b", "c"], dtype=np.str_)


def test_lists_and_tables_mean_the_same(tmp_path: Path) -> None:
    lists, table, tabs = tmp_path / "a.json", tmp_path / "a.csv", tmp_path / "a.tsv"
    lists.write_text(json.dumps({"a": ["kind=x", "kind=y", "brand=p"], "c": ["kind=x"], "z": ["brand=q"]}))
    table.write_text("brand,item_id,kind\np,a,x|y\n,c,x\nq,z,\n")
    tabs.write_text("Item\tkind\tbrand\na\tx| y\tp\nc\tx|x\t\nz\t\tq\n")
    for path in (lists, table, tabs):
        found, notes = load_attributes(path, ITEMS)
        assert found.shape == (4, 3)
        assert set(found.data) == {1.0}
        assert sorted(np.diff(found.indptr).tolist()) == [0, 0, 1, 3]
        assert (found @ found.T).toarray()[1, 3] == 1.0, "a and c have one in common"
        assert notes == [
            f"attributes: 2 of 3 items (66.7%), 3 attributes, from {path.name}",
            "attributes: ignored 1 items that are not in the interactions",
        ]


def test_numbers_are_names(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "1", 2], "b": [2]}')
    found, _ = load_attributes(path, ITEMS)
    assert found.shape == (4, 2)
    assert found[1].toarray().tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[1, 2]", "holds no object"),
        ("a.json", '{"a": "toys"}', "attributes of item 'a' are no list"),
        ("a.json", '{"a": [1.5]}', "attributes of item 'a' are no list"),
        ("a.json", '{"a": [1', "cannot be read"),
        ("a.json", '{"z": [1]}', "gives no attribute to any of the 3 items"),
        ("a.csv", "thing,kind\na,x\n", "one must name the item"),
        ("a.csv", "", "one must name the item"),
        ("a.csv", "item\na\n", "one must name the item"),
        ("a.parquet", "", "not a known kind"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_attributes(path, ITEMS)
    with pytest.raises(DataError, match="There is no file"):
        load_attributes(tmp_path / "absent.json", ITEMS)
