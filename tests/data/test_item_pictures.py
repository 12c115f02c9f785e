"""Which picture is whose, and that nothing outside the folder is opened."""

from __future__ import annotations

import unicodedata

import pytest

from fedmm.data.item_pictures import file_name_of, find_pictures
from fedmm.errors import DataError
from worlds.encoder_world import corners, encoded

PICTURE = encoded(corners())


def put(folder, *names, content=PICTURE):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def names(found):
    return {item: str(path.relative_to(found.folder)) for item, path in found.paths.items()}


def test_a_file_is_the_picture_of_the_item_it_is_named_after(tmp_path):
    put(tmp_path, "1.jpg", "2.JPEG", "sub/3.png", "4.webp", "whole.gif", "99.jpg", ".hidden.jpg", "1.txt", ".x/5.png")
    found = find_pictures(tmp_path, ["1", "2", "3", "4", "5", "whole.gif"])
    assert names(found) == {"1": "1.jpg", "2": "2.JPEG", "3": "sub/3.png", "4": "4.webp", "whole.gif": "whole.gif"}
    assert found.strangers == ("99.jpg",)
    assert not found.faults
    assert set(find_pictures(tmp_path, None).paths) == {"1", "2", "3", "4", "whole", "99"}


@pytest.mark.parametrize(
    "item", ["a/b", "..", "x y", "50%", "é", "日本", ".dot", "a:b", "=1+1", "new\nline", "'\"$(rm)`"]
)
def test_ids_of_any_signs_have_a_name(tmp_path, item):
    put(tmp_path, f"{file_name_of(item)}.png")
    assert list(find_pictures(tmp_path, [item, "other"]).paths) == [item]
    assert find_pictures(tmp_path, None).paths.keys() == {item}


def test_names_in_either_form_of_unicode(tmp_path):
    put(tmp_path, unicodedata.normalize("NFD", "café") + ".png")
    assert list(find_pictures(tmp_path, ["café"]).paths) == ["café"]


def test_two_files_of_one_item_are_a_fault_unless_they_are_the_same(tmp_path):
    put(tmp_path, "1.png", "2.png", "old/2.png")
    put(tmp_path, "1.jpg", content=b"another")
    found = find_pictures(tmp_path, ["1", "2"])
    assert found.faults == {"1": "several files: 1.jpg, 1.png"}
    assert names(found) == {"2": "2.png"}


def test_links_that_lead_outside_are_not_followed(tmp_path):
    put(tmp_path / "outside", "1.png", "2.png")
    inside = put(tmp_path / "inside", "3.png")
    (inside / "1.png").symlink_to(tmp_path / "outside" / "1.png")
    (inside / "4.png").symlink_to("3.png")
    (inside / "deep").symlink_to(tmp_path / "outside")
    (inside / "5.png").symlink_to("5.png")
    found = find_pictures(inside, ["1", "2", "3", "4", "5"])
    assert names(found) == {"3": "3.png", "4": "4.png"}
    assert found.faults == {"1": "1.png: leads outside the folder", "5": "5.png: leads outside the folder"}


def test_a_table_of_paths_stays_in_its_folder(tmp_path):
    put(tmp_path, "secret.png")
    put(tmp_path / "shop", "a.png", "sub/b.png")
    (tmp_path / "shop" / "out.png").symlink_to(tmp_path / "secret.png")
    rows = {"1": "a.png", "2": "sub/b.png", "3": "../secret.png", "4": str(tmp_path / "secret.png"), "5": "out.png",
            "6": "", "7": "a.png", "8": "sub/../a.png"}  # fmt: skip
    (tmp_path / "shop" / "t.csv").write_text("item_id,image\n" + "".join(f"{i},{p}\n" for i, p in rows.items()))
    found = find_pictures(tmp_path / "shop" / "t.csv", [*"1234568"])
    assert names(found) == {"1": "a.png", "2": "sub/b.png", "8": "sub/../a.png"}
    assert {item: reason.rpartition(": ")[2] for item, reason in found.faults.items()} == dict.fromkeys(
        "345", "leads outside the folder"
    )
    assert any("1 rows are of items that are not in the data" in note for note in found.notes)
    assert any("dropped 1 rows without an id or a path" in note for note in found.notes)


def test_a_table_names_one_file_an_item(tmp_path):
    (tmp_path / "t.csv").write_text("item_id,path\n1,a.png\n1,a.png\n2,a.png\n2,b.png\n")
    found = find_pictures(tmp_path / "t.csv", None)
    assert names(found) == {"1": "a.png"}
    assert found.faults == {"2": "several files: a.png, b.png"}
    (tmp_path / "u.csv").write_text("item_id,one,two\n1,a,b\n")
    with pytest.raises(DataError, match="has no column of paths; it has one, two"):
        find_pictures(tmp_path / "u.csv", None)


def test_where_no_picture_is_an_items_both_names_are_shown(tmp_path):
    put(tmp_path, "poster-1.jpg")
    with pytest.raises(
        DataError, match=r"no picture is that of an item \(pictures there: 'poster-1.jpg'; items: '1'\)"
    ):
        find_pictures(tmp_path, ["1"])
    with pytest.raises(DataError, match="There is no file"):
        find_pictures(tmp_path / "none", ["1"])
