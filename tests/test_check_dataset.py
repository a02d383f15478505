"""tools/check_dataset.py: each kind of problem put into a clean data set once must be found once."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from refusals import tool

from querypose.data.dataset_check import PROBLEMS, check_dataset


@pytest.fixture
def folder(tmp_path):
    """Four images of noise with one person each, nothing wrong with them."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 40})
        person = {"id": i, "image_id": i, "category_id": 1, "bbox": [10, 5, 30, 30], "iscrowd": 0}
        annotations.append({**person, "keypoints": [20, 10 + i, 2, 0, 0, 0], "num_keypoints": 1})
    category = {"id": 1, "name": "person", "keypoints": ["head", "neck"]}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (tmp_path / "data.json").write_text(json.dumps(content))
    return tmp_path


def found(folder, **options):
    return check_dataset(f"{folder}/data.json@{folder}", **options)


def test_a_clean_data_set(folder):
    report = found(folder)
    assert not report.problems and report.labeled == {"head": 4, "neck": 0}
    assert list(report.counts.values()) == [4, 4, 4, 0]  # images, annotations, with keypoints, without annotations
    assert report.histograms["annotations per image"] == [1] * 4
    assert report.histograms["size of persons in pixels (root of the box's area)"] == [30] * 4


def edit(change):
    def damage(folder):
        content = json.loads((folder / "data.json").read_text())
        change(content)
        (folder / "data.json").write_text(json.dumps(content))

    return damage


def first(what, **changes):
    return edit(lambda content: content[what][0].update(changes))


def one_more(what, **changes):
    return edit(lambda content: content[what].append({**content[what][0], **changes}))


def cut_off(folder):
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:2000])


DAMAGE = [
    ("missing", lambda folder: (folder / "3.png").unlink()),
    ("unreadable", lambda folder: (folder / "3.png").write_text("no picture")),
    ("unreadable", cut_off),
    ("size", first("images", width=40, height=60)),
    ("image entry", one_more("images", id=None)),
    ("image id", one_more("images", file_name="4.png")),
    ("picture", one_more("images", id=9)),
    ("picture", lambda folder: shutil.copy(folder / "0.png", folder / "1.png")),
    ("annotation entry", first("annotations", keypoints=[1, 2, 2])),
    ("annotation", one_more("annotations", id=9)),
    ("unknown image", first("annotations", image_id=77)),
    ("keypoint outside", first("annotations", keypoints=[62, 1, 1, 0, 0, 0])),
    ("box outside", first("annotations", bbox=[10, 5, 60, 5])),
    ("box without size", first("annotations", bbox=[10, 5, 0, 5])),
    ("no person", edit(lambda content: content["annotations"].clear())),
    ("no person", edit(lambda content: [person.update(iscrowd=1) for person in content["annotations"]])),
]


@pytest.mark.parametrize(("kind", "damage"), DAMAGE)
def test_each_problem_is_found_once(folder, kind, damage):
    damage(folder)
    report = found(folder)
    assert report.problems.keys() == {kind} and kind in PROBLEMS
    assert report.to_dict()["problems"][kind] == {"count": 1, "example": report.problems[kind][0]}


def test_headers_alone_find_sizes_but_no_cut_off_files(folder):
    cut_off(folder)
    first("images", width=61)(folder)
    assert found(folder, headers_only=True).problems.keys() == {"size"}
    one_more("images", id=9)(folder)
    assert found(folder, headers_only=True).problems.keys() == {"size", "picture"}


def test_places_that_are_no_problem(folder):
    # annotation tools round; a keypoint without label has no position; EXIF orientation is applied
    first("annotations", keypoints=[60.9, 40, 1, 999, 0, 0])(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.png").rotate(90, expand=True).save(folder / "0.png", exif=exif)
    assert not found(folder).problems and not found(folder, headers_only=True).problems


def test_tool(folder, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            tool("check_dataset", *arguments)()
        return stopped.value.code, *capsys.readouterr()

    picture, output, other = folder / "out" / "histograms.png", folder / "report.json", folder / "other"
    code, out, _ = run(folder / "data.json")
    assert code == 0 and "nothing is wrong" in out and "4 of 4 persons used; repaired: area 4" in out
    shutil.copytree(folder, other)
    cut_off(other)
    options = ["--picture", picture, "--output", output]
    code, out, _ = run(folder / "data.json", f"{other}/data.json@{other}", *options)
    assert code == 1 and "1 images that cannot be read" in out and "3 images that are the same as another one" in out
    assert json.loads(output.read_text())[1]["problems"]["picture"]["count"] == 3
    assert Image.open(picture).size[0] > 1000
    (folder / "broken.json").write_text("{")
    code, out, err = run("none.json", folder / "broken.json", folder / "data.json")
    assert code == 2 and "4 of 4 persons used" in out and err.count("error: ") == err.count("\n") == 2
