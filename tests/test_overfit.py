"""tools/overfit.py: the photographs that it takes from a file of another program."""

import codecs
import json
import runpy

from refusals import ROOT

from querypose.data.annotations import read_annotations


def test_photographs_of_an_export(tmp_path):
    """Ids as text, no area, no num_keypoints, two keypoints, another category, a byte order mark."""
    person = {"category_id": 1, "bbox": [9, 9, 90, 99], "keypoints": [20, 20, 2, 40, 80, 2]}
    content = {
        "images": [{"id": f"{i}", "file_name": f"{i}.png", "width": 200, "height": 150} for i in range(3)],
        "categories": [{"id": 1, "name": "hand", "keypoints": ["a", "b"]}, {"id": 2, "name": "dog"}],
        "annotations": [{**person, "image_id": f"{i}"} for i in (1, 1, 2, 2, 0)],
    }
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + json.dumps(content).encode())
    write_subset = runpy.run_path(str(ROOT / "tools" / "overfit.py"))["write_subset"]
    file = read_annotations(write_subset(str(tmp_path / "a.json"), 2, tmp_path / "subset.json"))
    assert [image["id"] for image in file.images] == ["1", "2"] and len(file.persons) == 4
