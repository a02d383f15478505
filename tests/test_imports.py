"""No import cycle among the modules of querypose, on module level or in functions."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "querypose"
# from below
LAYERS = ("errors", "skeleton", "config", "data", "modeling", "config_checks", "setup_config", "engine")


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def packages_of(name):
    """a, a.b, a.b.c of a.b.c: importing the last also runs the others."""
    return set(accumulate(name.split("."), "{}.{}".format))


def imported_by(name, source, files=FILES):
    """Modules that `source`, the text of the module `name`, imports; its own packages are running already."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(*(packages_of(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            found.update(*(packages_of(f"{node.module}.{alias.name}") for alias in node.names))
    return (found & set(files)) - packages_of(name)


GRAPH = {name: imported_by(name, path.read_text()) for name, path in FILES.items()}


def test_no_module_is_in_a_cycle():
    assert imported_by("p.a", "def f():\n    from p.b.c import x", ("p", "p.a", "p.b", "p.b.c")) == {"p.b", "p.b.c"}
    assert "querypose.data" in GRAPH["querypose.modeling.meta_arch"]
    TopologicalSorter(GRAPH).prepare()


def test_packages_are_in_layers():
    """No cycle between the packages of querypose either, and lower layers do not import higher ones."""
    parts: dict[str, set[str]] = {}
    for name, imported in GRAPH.items():
        if name != "querypose":
            part = name.split(".")[1]
            parts.setdefault(part, set()).update({other.split(".")[1] for other in imported} - {part})
    TopologicalSorter(parts).prepare()
    for height, layer in enumerate(LAYERS):
        assert not parts[layer] & set(LAYERS[height:]), layer


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)


def test_importing_querypose_imports_nothing_large_and_missing_detectron2_is_named():
    code = "import sys, querypose; print([n for n in ('torch', 'detectron2', 'cv2', 'numpy') if n in sys.modules])\n"
    done = run(code + "sys.modules['detectron2'] = None; from querypose import PosePredictor")
    assert done.stdout == "[]\n"
    assert done.returncode == 1 and "run 'python tools/install_detectron2.py'" in done.stderr


def test_add_querypose_config_is_all_that_users_import():
    code = """
from detectron2.config import get_cfg
from querypose import add_querypose_config
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
cfg = get_cfg()
add_querypose_config(cfg)
cfg.DATASETS.TRAIN, cfg.MODEL.DEVICE = ("keypoints_coco_2017_train",), "meta"
cfg.MODEL.BACKBONE.NAME = "build_hrnet_backbone"
print(type(build_model(cfg)).__name__, "crowdpose_trainval" in DatasetCatalog.list())
"""
    done = run(code)
    assert done.stdout.split() == ["QueryPose", "True"], done.stderr
